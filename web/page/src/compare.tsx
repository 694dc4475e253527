// Two trials side by side, on the same questions.
import { useState } from "preact/hooks";
import type { Answer, Comparison, Question, Study, Trial, TrialRow } from "./api";
import { useApi, type Live } from "./app";
import * as f from "./format";
import { GlyphIcon, lookOf, verdictText } from "./glyphs";
import { Crumbs, Tabs } from "./study";
import { DataTable } from "./tables";

const nameOf = (t: TrialRow, hasLazy: boolean | null) => `${t.trial}: ${t.kind === "point" ? f.floors(t, hasLazy) : f.kind(t)}`;

export function Comparing({ live, study: id, a, b }: { live: Live; study: number; a: number | null; b: number | null }) {
  const study = useApi<Study>(`studies/${id}`, live.version).data;
  const trials = useApi<TrialRow[]>(`studies/${id}/trials`, live.version).data;
  const recommended = study?.outcome?.recommended?.trial ?? null;
  const answered = (trials ?? []).filter((t) => t.accuracy !== null);
  const first = a ?? recommended ?? answered[0]?.trial ?? null;
  const second = b ?? (answered.find((t) => t.trial !== first) ?? trials?.find((t) => t.trial !== first))?.trial ?? null;
  const { data, error } = useApi<Comparison>(first !== null && second !== null ? `studies/${id}/compare?a=${first}&b=${second}` : null, live.version);
  if (!study || !trials) return <p class="loading">Reading the study …</p>;
  const choose = (side: "a" | "b") => (e: Event) => {
    const value = (e.target as HTMLSelectElement).value;
    location.hash = `#/study/${id}/compare/${side === "a" ? value : first}/${side === "b" ? value : second}`;
  };
  const picker = (label: string, value: number | null, side: "a" | "b") => (
    <label class="field"><span>{label}</span><select value={value ?? ""} onChange={choose(side)}>{trials.map((t) => <option key={t.trial} value={t.trial}>{nameOf(t, study.has_lazy)}{t.trial === recommended ? ", recommended" : ""}</option>)}</select></label>
  );
  return (
    <>
      <Crumbs study={id} name={study.study} more="compare" />
      <h1>Compare two trials</h1>
      <Tabs study={id} tab="compare" hasLazy={study.has_lazy} />
      <div class="card view">
        {trials.length < 2 ? <p class="empty">There are no two trials to compare yet.</p> : <>
          <div class="fields">{picker("First", first, "a")}{picker("Second", second, "b")}</div>
          {error && <p class="error" role="alert">{error}</p>}
          {data && <Sides data={data} study={study} recommended={recommended} />}
        </>}
      </div>
    </>
  );
}

function Sides({ data, study, recommended }: { data: Comparison; study: Study; recommended: number | null }) {
  const rows: [string, (t: TrialRow) => string, ((t: TrialRow) => number | null)?, "points"?][] = [
    ["verdict", verdictText], ["floors", (t) => (t.kind === "point" ? f.floors(t, study.has_lazy) : "–")],
    ["bits per weight", (t) => f.bits(t.bits_per_weight), (t) => t.bits_per_weight], ["predicted", (t) => f.bytes(t.predicted_bytes), (t) => t.predicted_bytes],
    ["measured", (t) => (t.state === "complete" ? f.bytes(t.measured_bytes) : "–"), (t) => t.measured_bytes],
    ["headroom", (t) => (t.state === "complete" && t.measured_bytes !== null ? f.bytes(study.memory_cap_bytes - t.measured_bytes) : "–")],
    ["accuracy", (t) => f.accuracy(t.accuracy), (t) => t.accuracy?.rate ?? null, "points"], ["95 % interval", (t) => (t.accuracy ? f.interval(t.accuracy) : "")],
    ["decode", (t) => f.rate(f.decode(t)), f.decode], ["prefill", (t) => f.rate(f.prefill(t)), f.prefill],
  ];
  // Of rates in per cent the difference, of the rest the ratio.
  const change = (x: number | null | undefined, y: number | null | undefined, points: boolean) => {
    if (x === null || x === undefined || y === null || y === undefined || (!points && x === 0)) return "";
    const by = (100 * (points ? y - x : y / x - 1)).toFixed(1);
    return `${/^-?0\.0$/.test(by) ? "0.0" : by.startsWith("-") ? by.replace("-", "−") : `+${by}`} ${points ? "points" : "%"}`;
  };
  const n = data.questions;
  const parts: [string, number, string][] = [["both right", data.both_right, "both"], [`only trial ${data.first.trial} right`, data.only_first_right, "first"],
    [`only trial ${data.second.trial} right`, data.only_second_right, "second"], ["both wrong", data.neither_right, "neither"]];
  const p = data.mcnemar_p;
  return (
    <>
      <DataTable caption="The two trials side by side" onlyShown rows={rows} keyOf={(r) => r[0]} columns={[
        { head: "What", cell: (r) => r[0] },
        { head: `Trial ${data.first.trial}`, cell: (r) => <>{r[0] === "verdict" && <GlyphIcon look={lookOf(data.first, recommended)} />} {r[1](data.first)}</> },
        { head: `Trial ${data.second.trial}${data.first.trial === data.second.trial ? " again" : ""}`, cell: (r) => <>{r[0] === "verdict" && <GlyphIcon look={lookOf(data.second, recommended)} />} {r[1](data.second)}</> },
        { head: "Change", numeric: true, cell: (r) => (r[2] ? change(r[2](data.first), r[2](data.second), r[3] === "points") : "") },
      ]} />
      {n === 0 ? <p class="empty">The two have no question in common.</p> : <>
        <h2>Question by question</h2>
        <div class="stacked" aria-hidden="true">{parts.filter(([, v]) => v > 0).map(([name, v, kind]) => <span key={name} class={kind} style={{ flexGrow: v }} />)}</div>
        <ul class="legend">{parts.map(([name, v, kind]) => <li key={name}><span class={`swatch ${kind}`} /> {name}: {v}</li>)}</ul>
        <p>{n} questions answered by both. {p !== null && (p < 0.05 ? `They do tell the two apart (McNemar, mid-p ${p.toPrecision(2)}): ${data.only_first_right > data.only_second_right ? `trial ${data.first.trial}` : `trial ${data.second.trial}`} answers better.`
          : `They do not tell the two apart (McNemar, mid-p ${p.toPrecision(2)}).`)}</p>
        {data.differences.length > 0 && <Differences data={data} study={study.id} />}
      </>}
    </>
  );
}

function Differences({ data, study }: { data: Comparison; study: number }) {
  const [at, setAt] = useState(0);
  const questions = useApi<Question[]>(`studies/${study}/questions`, 0).data;
  const first = useApi<Trial>(`studies/${study}/trials/${data.first.trial}`, 0).data;
  const second = useApi<Trial>(`studies/${study}/trials/${data.second.trial}`, 0).data;
  const here = data.differences[Math.min(at, data.differences.length - 1)];
  const find = (t: Trial | null): Answer | undefined => t?.answers.find((x) => x.stage !== "probe" && x.question === here.question && x.seed === here.seed);
  const [x, y] = [find(first), find(second)];
  return (
    <section aria-label="Where they differ">
      <div class="bar"><h2>Where they differ</h2>
        <span class="buttons"><button type="button" disabled={at <= 0} onClick={() => setAt(at - 1)}>Earlier</button><span class="faint">{Math.min(at, data.differences.length - 1) + 1} of {data.differences.length}</span><button type="button" disabled={at + 1 >= data.differences.length} onClick={() => setAt(at + 1)}>Later</button></span></div>
      <p class="question">{questions?.[here.question]?.text ?? `Question ${here.question}`}</p>
      <div class="sides">
        <div><h3>Trial {data.first.trial}: {here.right === "first" ? "right" : "wrong"}</h3><pre tabIndex={0}>{x?.text ?? "…"}</pre></div>
        <div><h3>Trial {data.second.trial}: {here.right === "second" ? "right" : "wrong"}</h3><pre tabIndex={0}>{y?.text ?? "…"}</pre></div>
      </div>
    </section>
  );
}
