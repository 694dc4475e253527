// The run that goes on, or the last one, put together from its events.
import type { LiveEvent, Verdict } from "./api";

export interface Series { t: number[]; v: (number | null)[] }  // seconds since the run began; null: a gap between two trials
export interface PhaseTime { phase: string; seconds: number | null }  // null: goes on
// Room for one trial in flight, one trial after the other: the series go on over all of them.
export interface Lane {
  trial: { number: number; attempt: number; kind: string; purpose: string; strict: number; lazy: number; predicted_bytes: number; since: number } | null;
  queue: { state: string; job: string; node: string; reason: string } | null;  // of a trial that a scheduler runs
  phases: PhaseTime[];  // of the attempt
  progress: Progress | null;
  questions: { answered: number; questions: number; correct: number; rate: number | null } | null;
  tokens: Series;   // tok/s of the answers
  right: Series;    // share of right answers so far
  live: Series;     // bytes
  peak: Series;
}
export interface Progress { phase: string; done: number; total: number; unit: string; rate: number | null }
export interface Run {
  begun: number | null;  // ms since 1970, of its first event
  heard: number | null;  // of its last
  running: boolean;
  study: string;
  studyId: number | null;
  over: "" | "done" | "interrupted";
  lanes: Lane[];
  progress: Progress | null;  // of the pass over the checkpoint
  log: { utc: string; text: string }[];
  forecast: { done: number; total: number; unit: string } | null;
}

const MAX_POINTS = 2000;
const MAX_LOG = 200;

export function emptyRun(): Run {
  return { begun: null, heard: null, running: false, study: "", studyId: null, over: "", lanes: [], progress: null, log: [], forecast: null };
}

export const inFlight = (run: Run): Lane[] => run.lanes.filter((lane) => lane.trial !== null);

const series = (): Series => ({ t: [], v: [] });
// The lane of a trial; for one that begins, the first that is free.
function laneOf(run: Run, trial: number, begins: boolean): Lane | null {
  const its = run.lanes.find((lane) => lane.trial?.number === trial);
  if (its || !begins) return its ?? null;
  const free = run.lanes.find((lane) => lane.trial === null);
  if (free) return free;
  const lane = { trial: null, queue: null, phases: [], progress: null, questions: null, tokens: series(), right: series(), live: series(), peak: series() };
  run.lanes.push(lane);
  return lane;
}

function add(series: Series, t: number, v: number | null): void {
  series.t.push(t);
  series.v.push(v);
  if (series.t.length > MAX_POINTS) { series.t.splice(0, MAX_POINTS / 4); series.v.splice(0, MAX_POINTS / 4); }
}

interface Last { at: number; tokens: number; answered: number }
const asked = new WeakMap<Lane, Last>();  // where the last rate was taken
const stepped = new WeakMap<Lane | Run, { at: number; done: number }>();

// Changes `run`.
export function apply(run: Run, event: LiveEvent): Run {
  const d = event.data;
  if (event.type === "run") {
    const next = emptyRun();
    next.running = run.running;
    return next;
  }
  if (event.type === "running") { run.running = d.running; return run; }
  if (event.type === "forecast_progress") { run.forecast = d; return run; }
  const now = typeof d.utc === "string" ? Date.parse(d.utc) : NaN;
  if (!isFinite(now)) return run;
  run.begun ??= now;
  run.heard = now;
  const t = (now - run.begun) / 1000;
  const say = (text: string) => { run.log.unshift({ utc: d.utc, text }); run.log.length = Math.min(run.log.length, MAX_LOG); };
  const verdict = (v: Verdict) => [v.reason === "none" ? "" : v.reason.replaceAll("_", " "), v.message].filter(Boolean).join(": ");
  switch (event.type) {
    case "measure_start": say("measuring what each floor costs"); break;
    case "measure_end": run.progress = null; say(d.reused ? "rate table: already there" : `rate table: made in ${d.seconds.toFixed(1)} s`); break;
    case "study_start": run.study = d.study; run.studyId = d.study_id; run.over = ""; say(`search of ${d.study} goes on`); break;
    case "study_end": run.over = d.interrupted ? "interrupted" : "done"; for (const lane of run.lanes) { lane.trial = null; lane.progress = null; } say(d.interrupted ? "paused" : "done"); break;
    case "trial_start": {
      const lane = laneOf(run, d.trial, true)!;
      lane.trial = { number: d.trial, attempt: d.attempt, kind: d.kind, purpose: d.purpose, strict: d.strict, lazy: d.lazy, predicted_bytes: d.predicted_bytes, since: now };
      lane.phases = []; lane.progress = null; lane.questions = null; lane.queue = null;
      for (const curve of [lane.tokens, lane.right]) if (curve.t.length > 0) add(curve, t, null);
      asked.delete(lane);
      say(`trial ${d.trial} begins: ${d.kind === "point" ? `${d.purpose.replaceAll("_", " ")} (${d.strict}, ${d.lazy})` : d.kind.replaceAll("_", " ")}${d.attempt > 1 ? `, attempt ${d.attempt}` : ""}`);
      break;
    }
    case "queue": {
      const lane = laneOf(run, d.trial, false);
      if (!lane) break;
      if (d.state === "started") say(`trial ${d.trial}: job ${d.job} runs on ${d.node}`);
      else if (lane.queue === null) say(`trial ${d.trial} waits in the queue${d.reason ? `: ${d.reason}` : ""}`);
      lane.queue = { state: d.state, job: d.job, node: d.node, reason: d.reason };
      break;
    }
    case "phase": {
      const at = d.trial === null ? run : laneOf(run, d.trial, false);
      if (!at) break;
      at.progress = null;
      stepped.set(at, { at: now, done: 0 });
      if (!("phases" in at)) break;
      if (d.begin) at.phases.push({ phase: d.phase, seconds: null });
      else { const open = at.phases.find((p) => p.phase === d.phase && p.seconds === null); if (open) open.seconds = d.seconds; else at.phases.push({ phase: d.phase, seconds: d.seconds }); }
      break;
    }
    case "progress": {
      const at = d.trial === null ? run : laneOf(run, d.trial, false);
      if (!at) break;
      const from = stepped.get(at);
      const seconds = from ? (now - from.at) / 1000 : 0;
      at.progress = { phase: d.phase, done: d.done, total: d.total, unit: d.unit, rate: from && seconds > 0.3 ? (d.done - from.done) / seconds : null };
      break;
    }
    case "memory": {
      const lane = laneOf(run, d.trial, false);
      if (lane) { add(lane.live, t, d.live_bytes); add(lane.peak, t, d.peak_bytes); }
      break;
    }
    case "questions": {
      const lane = laneOf(run, d.trial, false);
      if (!lane) break;
      const before = asked.get(lane);
      const seconds = before ? (now - before.at) / 1000 : 0;
      const rate = before && seconds > 0 ? (d.answered - before.answered) / seconds : null;
      lane.questions = { answered: d.answered, questions: d.questions, correct: d.correct, rate: rate ?? lane.questions?.rate ?? null };
      if (before && seconds > 0.2 && d.generated_tokens >= before.tokens) add(lane.tokens, t, (d.generated_tokens - before.tokens) / seconds);
      add(lane.right, t, d.correct / d.answered);
      // A few seconds are told by one rate, so that it does not jump with every batch.
      if (!before || seconds > 3 || d.answered === d.questions) asked.set(lane, { at: now, tokens: d.generated_tokens, answered: d.answered });
      break;
    }
    case "attempt_end": say(`trial ${d.trial} attempt ${d.attempt} failed: ${verdict(d.verdict)}${d.again ? "; trying again" : ""}`); break;
    case "trial_end": {
      const lane = laneOf(run, d.trial, false);
      if (lane) { lane.trial = null; lane.progress = null; }
      const all = lane?.questions && lane.questions.answered === lane.questions.questions ? `${lane.questions.correct} of ${lane.questions.answered} right` : "";
      say(`trial ${d.trial} ${d.state}${verdict(d.verdict) || all ? `: ${verdict(d.verdict) || all}` : ""}`);
      break;
    }
    case "note": say(d.line); break;
  }
  return run;
}
