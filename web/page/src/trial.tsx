// One trial with its evidence: memory, phases, what the plan gave each tensor, answers, transcripts, the log's end.
import { useMemo, useState } from "preact/hooks";
import { getText, type Answer, type Question, type Study, type TensorPlan, type Trial } from "./api";
import { useApi, type Live } from "./app";
import * as f from "./format";
import { GlyphIcon, lookOf, SHAPES, verdictText } from "./glyphs";
import { useWidth } from "./plane";
import { Crumbs, rerun } from "./study";
import { AsTable, DataTable } from "./tables";

export function TrialPage({ live, study: id, trial: number }: { live: Live; study: number; trial: number }) {
  const study = useApi<Study>(`studies/${id}`, live.version).data;
  const { data: trial, error } = useApi<Trial>(`studies/${id}/trials/${number}`, live.version);
  const [failed, setFailed] = useState("");
  if (error && !trial) return <p class="error" role="alert">{error}. <a href={`#/study/${id}`}>Back to the study</a></p>;
  if (!study || !trial) return <p class="loading">Reading the trial …</p>;
  const recommended = study.outcome?.recommended?.trial ?? null;
  const look = lookOf(trial, recommended);
  const total = Object.values(study.trials).reduce((a, b) => a + b, 0);
  return (
    <>
      <Crumbs study={id} name={study.study} more={`trial ${number}`} />
      <div class="bar">
        <h1><GlyphIcon look={look} size={20} /> Trial {number}</h1>
        <nav class="buttons" aria-label="Other trials">
          {number > 0 && <a class="button" href={`#/study/${id}/trial/${number - 1}`}>Earlier</a>}
          {number + 1 < total && <a class="button" href={`#/study/${id}/trial/${number + 1}`}>Later</a>}
          <a class="button" href={`#/study/${id}/compare/${recommended !== null && recommended !== number ? recommended : number}/${number}`}>Compare</a>
        </nav>
      </div>
      <p class="lead"><b>{trial.kind === "point" ? `${study.has_lazy === false ? "Floor" : "Floors"} ${f.floors(trial, study.has_lazy)}` : f.kind(trial)}</b>, {trial.kind === "point" ? `${f.words(trial.purpose)}, ` : ""}{f.bits(trial.bits_per_weight)} bits per weight: {SHAPES[look].label}.</p>
      <p class="verdict">{trial.state === "complete" && trial.accuracy ? `${f.accuracy(trial.accuracy)}${trial.accuracy.rate !== null ? `; 95 % interval ${f.interval(trial.accuracy)}` : `: ${trial.verdict.message || "an early-stopped rate is no accuracy"}`}` : verdictText(trial)}{trial.accuracy?.truncated_flag ? " Many answers were cut short: this measures the budget, not the model." : ""}</p>
      {trial.state === "failed" && <p class="controls"><button type="button" disabled={!live.state?.authorized || live.state?.running} onClick={() => { setFailed(""); rerun(id, number).catch((e: Error) => setFailed(e.message)).finally(live.refresh); }}>Run it again</button>{failed && <span class="error" role="alert">{failed}</span>}</p>}
      <div class="columns">
        <Ledger trial={trial} study={study} />
        <Phases trial={trial} />
      </div>
      <Tensors trial={trial} />
      <Answers study={id} trial={trial} />
      <Log study={id} trial={trial} />
    </>
  );
}

// ---- memory ----

function Ledger({ trial, study }: { trial: Trial; study: Study }) {
  const memory = trial.measured.memory;
  const predicted = new Map<string, number>();
  for (const line of trial.measured.predicted) predicted.set(line.name, (predicted.get(line.name) ?? 0) + line.bytes);
  const measured = new Map<string, number>();
  for (const line of memory?.lines ?? []) measured.set(line.name, (measured.get(line.name) ?? 0) + line.bytes);
  const names = [...new Set([...measured.keys(), ...predicted.keys()])].sort((a, b) => Math.max(measured.get(b) ?? 0, predicted.get(b) ?? 0) - Math.max(measured.get(a) ?? 0, predicted.get(a) ?? 0));
  const most = Math.max(1, ...names.map((n) => Math.max(measured.get(n) ?? 0, predicted.get(n) ?? 0)));
  const cap = study.memory_cap_bytes;
  return (
    <section class="card" aria-label="Memory">
      <h2>Memory</h2>
      {names.length === 0 ? <p class="empty">Nothing was measured.</p> : <>
        <p>{memory ? <><b>{f.bytes(memory.live_bytes)}</b> held, peak {f.bytes(memory.peak_bytes)}; </> : "not measured; "}predicted <b>{f.bytes(trial.predicted_bytes)}</b>{memory && trial.state === "complete" ? ` (${(100 * (memory.live_bytes / trial.predicted_bytes - 1)).toFixed(2)} % off)` : ""}; cap {f.bytes(cap)}.</p>
        <ul class="ledger">
          {names.map((name) => (
            <li key={name}>
              <span class="name">{f.words(name)}</span>
              <span class="meters" aria-hidden="true"><span class="measured" style={{ width: `${(100 * (measured.get(name) ?? 0)) / most}%` }} /><span class="predicted" style={{ width: `${(100 * (predicted.get(name) ?? 0)) / most}%` }} /></span>
              <span class="number">{f.bytes(measured.get(name))}<small>{predicted.has(name) ? f.bytes(predicted.get(name)) : "not predicted"}</small></span>
            </li>
          ))}
        </ul>
        <ul class="legend"><li><span class="swatch measured" /> measured</li><li><span class="swatch predicted" /> predicted</li></ul>
        <AsTable>{() => <DataTable caption="Memory ledger" rows={names} keyOf={(n) => n} columns={[
          { head: "What", cell: (n) => f.words(n), sort: (n) => n }, { head: "Measured", numeric: true, cell: (n) => f.bytes(measured.get(n)), sort: (n) => measured.get(n) ?? -1 },
          { head: "Predicted", numeric: true, cell: (n) => f.bytes(predicted.get(n)), sort: (n) => predicted.get(n) ?? -1 }]} />}</AsTable>
      </>}
      {trial.measured.ranks.length > 0 && <DataTable caption="Memory by rank; above is the tightest device" rows={trial.measured.ranks.map((ledger, rank) => ({ ...ledger, rank }))} keyOf={(r) => String(r.rank)} columns={[
        { head: "Rank", numeric: true, cell: (r) => r.rank, sort: (r) => r.rank }, { head: "Device", cell: (r) => r.device, sort: (r) => r.device },
        { head: "Held", numeric: true, cell: (r) => f.bytes(r.live_bytes), sort: (r) => r.live_bytes },
        { head: "Peak", numeric: true, cell: (r) => f.bytes(r.peak_bytes), sort: (r) => r.peak_bytes }]} />}
    </section>
  );
}

// ---- time ----

function Phases({ trial }: { trial: Trial }) {
  const phases = trial.measured.phase_seconds;
  const last = trial.attempts[trial.attempts.length - 1];
  const counted = phases.reduce((a, p) => a + p.seconds, 0);
  // The worker times what it does before the first question. The rest of the attempt is what comes after, and the worker's start
  // and end; where a scheduler starts it, also its wait for a node.
  const rest = last?.ended_utc && phases.some((p) => p.phase === "warmup") ? (Date.parse(last.ended_utc) - Date.parse(last.started_utc)) / 1000 - counted : 0;
  const shown = rest > 0.05 ? [...phases, { phase: "everything else", seconds: rest }] : phases;
  const sum = shown.reduce((a, p) => a + p.seconds, 0);
  const rates = Object.entries(trial.throughput);
  return (
    <section class="card" aria-label="Phases">
      <h2>Phases</h2>
      {phases.length === 0 ? <p class="empty">No phase came to its end.</p> : (
        <ul class="phases">
          {shown.map((p, i) => <li key={i}><span class="name">{p.phase}</span><span class="meter" aria-hidden="true"><span class="under" style={{ width: `${(100 * p.seconds) / Math.max(sum, 1e-9)}%` }} /></span><span class="number">{f.duration(p.seconds)}</span></li>)}
        </ul>
      )}
      {rates.length > 0 && <><h3>Rates</h3><DataTable caption="Rates" onlyShown rows={rates} keyOf={(r) => r[0]} columns={[
        { head: "What", cell: ([kind]) => f.words(kind) }, { head: "Mean", numeric: true, cell: ([, r]) => f.rate(r.mean_tok_per_s) },
        { head: "Spread", numeric: true, cell: ([, r]) => (r.sd_tok_per_s === null ? "–" : `± ${r.sd_tok_per_s.toFixed(0)}`) }, { head: "Runs", numeric: true, cell: ([, r]) => `${r.repetitions} × ${r.tokens}` }]} /></>}
      <h3>Attempts</h3>
      <ul class="plain">{trial.attempts.map((a) => <li key={a.number}>{a.number}: {a.ended_utc ? `${f.duration((Date.parse(a.ended_utc) - Date.parse(a.started_utc)) / 1000)}, ${a.verdict.reason === "none" ? "to its end" : f.words(a.verdict.reason)}` : "goes on"}{a.verdict.message && a.verdict.reason !== "none" ? `: ${a.verdict.message}` : ""}</li>)}</ul>
    </section>
  );
}

// ---- tensors ----

const bitsOf = (t: TensorPlan) => (8 * t.bytes) / (t.rows * t.columns);
// What a floor leaves, as people read it: 0.99 and 0.999 are far apart.
const nines = (cosine: number) => -Math.log10(Math.max(1 - cosine, 1e-6));
const layerOf = (name: string) => { const m = /(?:layers|h|blocks)\.(\d+)\./.exec(name); return m ? Number(m[1]) : null; };

function Tensors({ trial }: { trial: Trial }) {
  const [box, width] = useWidth();
  const [at, setAt] = useState<TensorPlan | null>(null);
  const tensors = useMemo(() => (trial.plan?.tensors ?? []).filter((t) => t.format), [trial]);
  if (tensors.length === 0) return null;
  // Experts of one layer stand together; a strip of more than a few hundred columns would show nothing.
  const groups = tensors.length <= 400 ? tensors : tensors.filter((_, i) => i % Math.ceil(tensors.length / 400) === 0);
  const left = 56;
  const w = Math.max(2, (width - left) / groups.length);
  const top = Math.max(1, ...groups.map(bitsOf));
  const H = 90;
  const most = Math.max(1, ...groups.map((t) => nines(t.min_cosine ?? 1)));
  return (
    <section class="card" aria-label="Tensors">
      <h2>Bits and worst channel, tensor by tensor</h2>
      <div class="plot strip" ref={box}>
        {width > 0 && (
          <svg width={width} height={2 * H + 44} role="img" aria-label={`Bits per weight and worst channel's cosine of ${tensors.length} quantized tensors`} onMouseLeave={() => setAt(null)}
               onMouseMove={(e) => { const x = e.clientX - (e.currentTarget as Element).getBoundingClientRect().left - left; setAt(groups[Math.floor(x / w)] ?? null); }}>
            <text class="tick" x={left - 6} y={12} text-anchor="end">{top.toFixed(1)}</text><text class="tick" x={left - 6} y={H} text-anchor="end">0 bits</text>
            <text class="tick" x={left - 6} y={H + 26} text-anchor="end">{f.floor(1 - 10 ** -most).slice(0, 6)}</text><text class="tick" x={left - 6} y={2 * H + 14} text-anchor="end">cos 0</text>
            {groups.map((t, i) => (
              <g key={t.name} class={`tensor ${t.family}${at === t ? " here" : ""}`}>
                <rect x={left + i * w} width={Math.max(1, w - 1)} y={H - (H - 6) * (bitsOf(t) / top)} height={(H - 6) * (bitsOf(t) / top)} />
                {t.min_cosine !== undefined && <rect class="cosine" x={left + i * w} width={Math.max(1, w - 1)} y={2 * H + 14 - (H - 6) * (nines(t.min_cosine) / most)} height={(H - 6) * (nines(t.min_cosine) / most)} />}
              </g>
            ))}
            {groups.map((t, i) => { const l = layerOf(t.name); return l !== null && (i === 0 || layerOf(groups[i - 1].name) !== l) && w * 8 > 14 ? <text key={`l${i}`} class="tick" x={left + i * w} y={2 * H + 32}>{l}</text> : null; })}
          </svg>
        )}
      </div>
      <p class="hint">{at ? `${at.name}: ${bitsOf(at).toFixed(2)} bits, ${at.format!.levels} levels, ${f.count(at.outliers ?? 0)} outliers, worst channel ${at.min_cosine === undefined ? "–" : at.min_cosine.toFixed(5)}` : "Above bits per weight, below the worst channel's cosine (each step up is a tenth of the error); numbers are layers."}</p>
      <ul class="legend"><li><span class="swatch strict" /> strict</li><li><span class="swatch lazy" /> lazy</li><li><span class="swatch head" /> head</li></ul>
      <AsTable>{() => <DataTable caption="Quantized tensors" rows={tensors} keyOf={(t) => t.name} columns={[
        { head: "Tensor", cell: (t) => <code>{t.name}</code>, sort: (t) => t.name }, { head: "Family", cell: (t) => t.family, sort: (t) => t.family },
        { head: "Shape", numeric: true, cell: (t) => `${t.rows} × ${t.columns}`, sort: (t) => t.rows * t.columns }, { head: "Levels", numeric: true, cell: (t) => t.format!.levels, sort: (t) => t.format!.levels },
        { head: "Bits", numeric: true, cell: (t) => bitsOf(t).toFixed(3), sort: bitsOf }, { head: "Outliers", numeric: true, cell: (t) => f.count(t.outliers ?? 0), sort: (t) => t.outliers ?? 0 },
        { head: "Worst channel", numeric: true, cell: (t) => t.min_cosine?.toFixed(5) ?? "–", sort: (t) => t.min_cosine ?? 2 }, { head: "Bytes", numeric: true, cell: (t) => f.bytes(t.bytes), sort: (t) => t.bytes }]} />}</AsTable>
    </section>
  );
}

// ---- answers ----

const rank = (a: Answer) => (a.stage === "probe" ? 2 : a.strict_correct ? 1 : 0);

function Answers({ study, trial }: { study: number; trial: Trial }) {
  const questions = useApi<Question[]>(trial.answers.length > 0 ? `studies/${study}/questions` : null, 0);
  const [only, setOnly] = useState("all");
  const [at, setAt] = useState(0);
  const sorted = useMemo(() => [...trial.answers].sort((a, b) => rank(a) - rank(b) || a.question - b.question || a.seed - b.seed), [trial]);
  const kinds: [string, string, (a: Answer) => boolean][] = [["all", "all, wrong ones first", () => true], ["wrong", "wrong", (a) => a.stage !== "probe" && !a.strict_correct],
    ["right", "right", (a) => a.stage !== "probe" && a.strict_correct], ["cut", "cut short", (a) => a.finish === "length" || a.finish === "context"], ["probe", "probes", (a) => a.stage === "probe"]];
  if (trial.answers.length === 0) return null;
  const shown = sorted.filter(kinds.find(([key]) => key === only)![2]);
  const here = shown[Math.min(at, shown.length - 1)];
  const question = here && here.stage !== "probe" ? questions.data?.[here.question] : undefined;
  return (
    <section class="card" aria-label="Answers">
      <div class="bar"><h2>Answers</h2>
        <label>Show <select value={only} onChange={(e) => { setOnly((e.target as HTMLSelectElement).value); setAt(0); }}>{kinds.map(([key, name, is]) => <option key={key} value={key}>{name} ({sorted.filter(is).length})</option>)}</select></label></div>
      {shown.length === 0 ? <p class="empty">There are none.</p> : (
        <div class="answers">
          <ol class="list" tabIndex={0} aria-label="Answers, wrong ones first">
            {shown.slice(Math.max(0, at - 100), at + 200).map((a, i) => {
              const index = Math.max(0, at - 100) + i;
              const word = a.stage === "probe" ? "probe" : a.strict_correct ? "right" : "wrong";
              return <li key={`${a.stage} ${a.question} ${a.seed}`}><button type="button" class={`item ${word}`} aria-pressed={index === at} onClick={() => setAt(index)}><span class="word">{word}</span> {a.question}{a.seed > 0 ? `, seed ${a.seed}` : ""}</button></li>;
            })}
          </ol>
          <div class="transcript">
            {question && <p class="question">{question.text}</p>}
            {questions.error && <p class="faint">The questions cannot be read: {questions.error}</p>}
            <p class="meta">{here.stage === "probe" ? "garbage probe" : <>said <b>{here.strict}</b>{question ? <>, gold <b>{question.answer.split("####").pop()?.trim()}</b></> : null}{!here.strict_correct && here.flexible_correct ? ` (flexibly ${here.flexible}, right)` : ""}</>}; {here.generated_tokens} tokens, ended by {f.words(here.finish)}</p>
            <pre tabIndex={0} aria-label="What the model wrote">{here.text}</pre>
          </div>
        </div>
      )}
    </section>
  );
}

// ---- log ----

function Log({ study, trial }: { study: number; trial: Trial }) {
  const [text, setText] = useState<string | null>(null);
  const [attempt, setAttempt] = useState(trial.attempts.length);
  if (trial.attempts.length === 0) return null;
  const read = (n: number) => { setAttempt(n); getText(`studies/${study}/trials/${trial.trial}/log?attempt=${n}`).then((t) => setText(t || "(empty: the worker printed nothing)")).catch((e: Error) => setText(e.message)); };
  return (
    <details class="card log" onToggle={(e) => { if ((e.currentTarget as HTMLDetailsElement).open && text === null) read(attempt); }}>
      <summary><h2>Log of the worker</h2></summary>
      {trial.attempts.length > 1 && <label>Attempt <select value={attempt} onChange={(e) => read(Number((e.target as HTMLSelectElement).value))}>{trial.attempts.map((a) => <option key={a.number} value={a.number}>{a.number}</option>)}</select></label>}
      <pre tabIndex={0} aria-label="The log's end">{text ?? "…"}</pre>
    </details>
  );
}
