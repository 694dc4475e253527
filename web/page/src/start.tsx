// Begins, pauses, stops and resumes searches; what a new one would find to choose from is shown before anything is loaded.
import { useEffect, useState } from "preact/hooks";
import { post, Refused, type Forecast, type StudyRow } from "./api";
import { useApi, type Live } from "./app";
import * as f from "./format";
import { stateOf } from "./studies";
import { AsTable, DataTable } from "./tables";

// ---- the buttons of a study ----

export function Controls({ study, live }: { study: StudyRow; live: Live }) {
  const [busy, setBusy] = useState("");
  const [error, setError] = useState("");
  const [sure, setSure] = useState(false);
  const state = stateOf(study, live);
  const may = live.state?.authorized ?? false;
  const act = (path: string) => {
    setBusy(path);
    setError("");
    setSure(false);
    post(path).catch((e: Error) => setError(e.message)).finally(() => { setBusy(""); live.refresh(); });
  };
  const resumable = state === "interrupted" || state === "cut off";
  if (state === "done" || !(resumable || state === "running")) return null;
  return (
    <div class="controls">
      {state === "running" && <>
        <button type="button" disabled={!may || busy !== ""} onClick={() => act("run/pause")}>Pause</button>
        {sure ? <span class="sure">The trial that runs will be repeated. <button type="button" class="danger" onClick={() => act("run/stop")}>Stop now</button> <button type="button" class="quiet" onClick={() => setSure(false)}>No</button></span>
          : <button type="button" disabled={!may || busy !== ""} onClick={() => setSure(true)}>Stop</button>}
      </>}
      {resumable && <button type="button" class="primary" disabled={!may || busy !== "" || live.state?.running} onClick={() => act(`studies/${study.id}/resume`)}>Resume</button>}
      {busy && <span class="faint" role="status">asked …</span>}
      {!may && <span class="faint">needs the token, below</span>}
      {error && <p class="error" role="alert">{error}</p>}
    </div>
  );
}

// ---- what waits ----

// The searches that wait, and those that could not be run.
export function Waiting({ live }: { live: Live }) {
  const [error, setError] = useState("");
  const queue = live.state?.queue;
  const run = live.state?.run;
  const may = live.state?.authorized ?? false;
  const act = (path: string) => { setError(""); post(path).catch((e: Error) => setError(e.message)).finally(live.refresh); };
  // How the command ends where nothing is wrong: done, no feasible point, interrupted.
  const broke = run && !run.ours && run.exit_code !== null && ![0, 3, 130].includes(run.exit_code) ? run.message || `exit code ${run.exit_code}` : "";
  if (!queue || (queue.waiting.length === 0 && queue.failed.length === 0 && !broke)) return null;
  return (
    <section class="card waiting" aria-label="Searches that wait">
      {broke && !queue.failed.some((line) => line.endsWith(broke)) && <p class="error" role="alert">The last search begun here failed: {broke}</p>}
      {queue.failed.map((line, i) => <p key={i} class="error">Failed when its turn came: {line}</p>)}
      {queue.waiting.length > 0 && <>
        <h2>{queue.waiting.length === 1 ? "One search waits" : `${queue.waiting.length} searches wait`}</h2>
        <p class="faint">{queue.held ? "The last search was paused, so none begins by itself. Resume it, or go on with these." : "The first begins when the one that runs is done. They are forgotten when this server ends."}</p>
        <ol class="queue">{queue.waiting.map(({ id, what }) => <li key={id}><span>{what}</span> <button type="button" class="quiet" disabled={!may} onClick={() => act(`queue/${id}/withdraw`)} aria-label={`Withdraw ${what}`}>Withdraw</button></li>)}</ol>
        {queue.held && <p class="controls"><button type="button" disabled={!may} onClick={() => act("queue/release")}>Begin the first</button></p>}
      </>}
      {error && <p class="error" role="alert">{error}</p>}
    </section>
  );
}

// ---- a new search ----

interface Form {
  model: string; memory: string; headroom: string; context: string; batch: string; mode: string; strategy: string; limit: string;
  candidates: string; garbage_loads: string; parallel: string; tasks: string; study: string; device: string; tp: string; kv_dtype: string; seeds: string; min_accuracy: string; baseline_16bit: boolean; baseline_int4: boolean; baseline_int4_pruned: boolean; trust_plan: boolean;
}
// What was filled in stays while other views are looked at.
let kept: Form | null = null;
const EMPTY: Form = { model: "", memory: "", headroom: "", context: "", batch: "1", mode: "auto", strategy: "predict", limit: "", candidates: "", garbage_loads: "", parallel: "", tasks: "",
  study: "", device: "", tp: "", kv_dtype: "f16", seeds: "", min_accuracy: "", baseline_16bit: false, baseline_int4: false, baseline_int4_pruned: false, trust_plan: false };

function bodyOf(form: Form): Record<string, unknown> {
  const body: Record<string, unknown> = { model: form.model, memory: form.memory, mode: form.mode, strategy: form.strategy, kv_dtype: form.kv_dtype };
  for (const key of ["context", "batch", "limit", "candidates", "garbage_loads", "parallel", "tp", "seeds"] as const) if (form[key] !== "") body[key] = Number(form[key]);
  for (const key of ["headroom", "tasks", "study", "device"] as const) if (form[key] !== "") body[key] = form[key];
  if (form.min_accuracy !== "") body.min_accuracy = Number(form.min_accuracy);
  for (const key of ["baseline_16bit", "baseline_int4", "baseline_int4_pruned", "trust_plan"] as const) if (form[key]) body[key] = true;
  return body;
}

export function Start({ live }: { live: Live }) {
  const models = useApi<{ path: string; bytes: number }[]>("models", 0).data;
  const [form, setForm] = useState<Form>(kept ?? EMPTY);
  const [forecast, setForecast] = useState<Forecast | null>(null);
  const [busy, setBusy] = useState<"" | "forecast" | "start">("");
  const [error, setError] = useState("");
  const [begun, setBegun] = useState(false);
  const [queued, setQueued] = useState("");  // what waits now
  const state = live.state;
  const set = (key: keyof Form) => (e: Event) => {
    const input = e.target as HTMLInputElement;
    setForm(kept = { ...form, [key]: input.type === "checkbox" ? input.checked : input.value });
    if (["model", "memory", "headroom", "context", "batch", "mode", "device", "tp", "kv_dtype"].includes(key)) setForecast(null);
  };
  const ask = async (what: "forecast" | "start") => {
    setQueued("");
    setBusy(what);
    setError("");
    try {
      if (what === "forecast") setForecast(await post<Forecast>("forecast", bodyOf(form)));
      else if (state?.running) {
        await post("queue", bodyOf(form));
        setQueued(form.study || `${f.modelName(form.model)} under ${form.memory}`);
        setForm((now) => (kept = { ...now, study: "" }));  // a name is of one study
      }
      else { await post("studies", bodyOf(form)); setBegun(true); }
    } catch (e) {
      // Another began since the page looked: what it offers below is the queue.
      const late = what === "start" && !state?.running && e instanceof Refused && e.status === 409;
      setError(late ? `${e.message}. This one can start when its turn comes.` : (e as Error).message);
    }
    setBusy("");
    live.refresh();
  };
  // A single checkpoint is no choice.
  useEffect(() => { if (models?.length === 1 && models[0].bytes > 0 && form.model === "") setForm({ ...form, model: models[0].path }); }, [models]);
  const ready = form.model !== "" && form.memory !== "";
  const progress = busy === "forecast" ? live.run.forecast : null;
  const text = (key: keyof Form, label: string, hint: string, more = {}) => (
    <label class="field"><span>{label}</span><input value={form[key] as string} onInput={set(key)} autocomplete="off" {...more} /><small>{hint}</small></label>
  );
  return (
    <>
      <h1>New search</h1>
      {state && state.roots.length === 0 && (
        <div class="card note"><p>No folder was opened to the browser. Begin the server with one, and its checkpoints can be chosen here:</p>
          <pre>hproc serve --db {state.db} --root /path/to/models</pre></div>
      )}
      {begun && live.run.studyId !== null && live.state?.running && <p class="note" role="status">It runs: <a href={`#/study/${live.run.studyId}/live`}>watch it</a>.</p>}
      {begun && live.run.studyId === null && <p class="note" role="status">Begun; the rate table comes first{live.run.progress ? ` (${Math.round(100 * live.run.progress.done / Math.max(1, live.run.progress.total))} %)` : ""}.</p>}
      <form class="card start" onSubmit={(e) => { e.preventDefault(); void ask("start"); }}>
        <div class="fields">
          <label class="field wide"><span>Model</span>
            <select value={form.model} onChange={set("model")} required>
              <option value="">choose a checkpoint</option>
              {(models ?? []).map((m) => <option key={m.path} value={m.bytes > 0 ? m.path : `synthetic:${m.path}/config.json`}>{m.path} ({m.bytes > 0 ? f.bytes(m.bytes) : "no weights: random ones, for fit and rates"})</option>)}
            </select><small>{models && state && state.roots.length > 0 ? `${models.length} found in ${state.roots.join(", ")}` : "a folder with config.json and safetensors"}</small></label>
          {text("memory", "Memory cap", "of each device, like 17MiB or 96GiB", { required: true })}
          {text("headroom", "Headroom", "to be left free of it")}
          {text("context", "Context", "tokens a sequence may hold; default 1024", { inputMode: "numeric", pattern: "[0-9]*" })}
          {text("batch", "Batch", "sequences decoded together", { inputMode: "numeric", pattern: "[0-9]*" })}
          {text("device", "Device", "cpu (default), cuda, cuda:0,1")}
          {text("limit", "Questions", "at most; default all", { inputMode: "numeric", pattern: "[0-9]*" })}
          {text("study", "Name", "default: model and cap")}
        </div>
        <details>
          <summary>More</summary>
          <div class="fields">
            <label class="field"><span>Codebooks</span><select value={form.mode} onChange={set("mode")}><option>auto</option><option>v2</option><option>v2a</option></select><small>V2: one a channel; V2a: a library</small></label>
            <label class="field"><span>Strategy</span><select value={form.strategy} onChange={set("strategy")}><option>predict</option><option>walk</option><option>grid</option></select><small>walk and grid do without the forecast</small></label>
            {text("tp", "Tensor-parallel ranks", "devices that share one model; default 1", { inputMode: "numeric", pattern: "[0-9]*" })}
            <label class="field"><span>Keys and values</span><select value={form.kv_dtype} onChange={set("kv_dtype")}><option value="f16">16 bits</option><option value="i8">8 bits</option><option value="f32">32 bits</option></select><small>what the cache stores them in</small></label>
            {text("seeds", "Seeds", "default 1: greedy; more: sampled so many times", { inputMode: "numeric", pattern: "[0-9]*" })}
            {text("candidates", "Candidates", "whose answers are compared; default 5", { inputMode: "numeric", pattern: "[0-9]*" })}
            {text("garbage_loads", "Garbage loads", "spent on where garbage begins, at most; default 6", { inputMode: "numeric", pattern: "[0-9]*" })}
            {text("parallel", "Trials at once", "each with a device or a part of the threads; default 1", { inputMode: "numeric", pattern: "[0-9]*" })}
            {text("min_accuracy", "Least accuracy", "below which no point is wanted, 0 to 1", { inputMode: "decimal" })}
            {text("tasks", "Question file", "JSONL; default test.jsonl beside the model")}
          </div>
          <label class="check"><input type="checkbox" checked={form.baseline_16bit} onChange={set("baseline_16bit")} /> run the model as stored too, fit or not</label>
          <label class="check"><input type="checkbox" checked={form.baseline_int4} onChange={set("baseline_int4")} /> run it in INT4, groups of 128, too</label>
          <label class="check"><input type="checkbox" checked={form.baseline_int4_pruned} onChange={set("baseline_int4_pruned")} /> and with experts left out until it is no larger than the recommended point</label>
          <label class="check"><input type="checkbox" checked={form.trust_plan} onChange={set("trust_plan")} /> no loads to confirm what the plan says does not fit</label>
        </details>
        <div class="controls">
          <button type="button" disabled={!ready || busy !== "" || !state?.authorized} onClick={() => void ask("forecast")}>Forecast</button>
          <button type="submit" class="primary" disabled={!ready || busy !== "" || !state?.authorized}>{state?.running ? "Start when its turn comes" : "Start"}</button>
          {busy === "forecast" && <span class="faint" role="status">making the rate table{progress ? `: ${Math.round(100 * progress.done / Math.max(1, progress.total))} %` : " …"}</span>}
          {busy === "start" && <span class="faint" role="status">starting …</span>}
          {state && !state.authorized && <span class="faint">needs the token, below</span>}
          {state?.authorized && !ready && <span class="faint">needs a model and a memory cap</span>}
          {state?.running && !begun && <span class="faint">One search at a time: <a href={live.run.studyId ? `#/study/${live.run.studyId}/live` : "#/"}>one runs</a>{state.queue.waiting.length > 0 ? `, ${state.queue.waiting.length} wait` : ""}.</span>}
        </div>
        {error && <p class="error" role="alert">{error}</p>}
        {queued && <p class="note" role="status">{queued} waits for its turn, as long as this server runs: <a href="#/">what waits</a>.</p>}
      </form>
      {forecast && <ForecastCard forecast={forecast} />}
    </>
  );
}

function ForecastCard({ forecast: g }: { forecast: Forecast }) {
  const bars: [string, number][] = [["16 bits, as stored", g.stored_16bit.total_bytes], ["INT4, groups of 128", g.int4_g128.total_bytes],
    ["highest floors that fit", Math.max(0, ...g.predicted_fit_frontier.map((p) => p.needed_bytes))], ["lowest floors", g.lowest.needed_bytes]];
  const most = Math.max(g.budget_bytes, ...bars.map(([, b]) => b));
  return (
    <section class="card forecast" aria-label="Forecast">
      <h2>Before anything is loaded</h2>
      {g.predicted_fit_frontier.length === 0
        ? <p class="error">Nothing fits: even the lowest floors need {f.bytes(g.lowest.needed_bytes)} of {f.bytes(g.budget_bytes)}.</p>
        : <p>{g.predicted_fit_frontier.length} corners on the predicted fit frontier, from strict {f.floor(g.predicted_fit_frontier[g.predicted_fit_frontier.length - 1].strict)} at lazy {f.floor(g.predicted_fit_frontier[g.predicted_fit_frontier.length - 1].lazy)} to strict {f.floor(g.predicted_fit_frontier[0].strict)} at lazy {f.floor(g.predicted_fit_frontier[0].lazy)}.</p>}
      <ul class="budget">
        {bars.filter(([, b]) => b > 0).map(([name, b]) => (
          <li key={name}>
            <span>{name}</span>
            <span class="meter" aria-hidden="true"><span class={b > g.budget_bytes ? "over" : "under"} style={{ width: `${(100 * b) / most}%` }} /><span class="limit" style={{ left: `${(100 * g.budget_bytes) / most}%` }} /></span>
            <span class="number">{f.bytes(b)} {b > g.budget_bytes ? "does not fit" : "fits"}</span>
          </li>
        ))}
      </ul>
      <p class="hint">The mark is what a point may hold: {f.bytes(g.budget_bytes)}.</p>
      <AsTable label="The predicted fit frontier">{() => <DataTable caption="The largest floors that fit, by the plan" rows={g.predicted_fit_frontier} keyOf={(p) => `${p.strict} ${p.lazy}`} columns={[
        { head: "Strict", numeric: true, cell: (p) => f.floor(p.strict), sort: (p) => p.strict }, { head: "Lazy", numeric: true, cell: (p) => f.floor(p.lazy), sort: (p) => p.lazy },
        { head: "Needs", numeric: true, cell: (p) => f.bytes(p.needed_bytes), sort: (p) => p.needed_bytes }]} />}</AsTable>
    </section>
  );
}
