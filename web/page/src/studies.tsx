// All studies of the file, newest first.
import type { StudyRow } from "./api";
import { useApi, type Live } from "./app";
import * as f from "./format";
import { Controls, Waiting } from "./start";

const STATES = ["complete", "infeasible", "failed", "running", "waiting"];

// What a study's state is to people: one that nobody runs any more was cut off.
export function stateOf(study: StudyRow, live: Live): string {
  if (study.state !== "running") return study.state;
  return live.state?.running && (live.state.study_id === study.id || live.state.study_id === null) ? "running" : "cut off";
}

export function StateBadge({ study, live }: { study: StudyRow; live: Live }) {
  const state = stateOf(study, live);
  return <span class={`badge ${state.replace(" ", "-")}`}>{state}</span>;
}

// Trials that were in flight when their search ended stay so in the study file, to be repeated.
export function TrialCounts({ trials, runs }: { trials: { [state: string]: number }; runs: boolean }) {
  const all = Object.values(trials).reduce((a, b) => a + b, 0);
  if (all === 0) return <p class="faint">no trial yet</p>;
  const there = STATES.filter((state) => trials[state]);
  return (
    <div class="counts">
      <div class="parts" aria-hidden="true">{there.map((state) => <span key={state} class={state} style={{ flexGrow: trials[state] }} />)}</div>
      <p>{all} {all === 1 ? "trial" : "trials"}: {there.map((state) => `${trials[state]} ${state === "running" && !runs ? "cut off" : state}`).join(", ")}</p>
    </div>
  );
}

export function Studies({ live }: { live: Live }) {
  const { data, error } = useApi<StudyRow[]>("studies", live.version);
  if (error && !data) return <p class="error" role="alert">{error}</p>;
  if (!data) return <p class="loading">Reading the study file …</p>;
  return (
    <>
      <div class="bar"><h1>Studies</h1><a class="button primary" href="#/start">New search</a></div>
      {data.length === 0 && (
        <div class="card empty">
          <h2>No study yet</h2>
          <p>A study finds the operating point at which a model just fits a memory cap and still talks sense. <a href="#/start">Start one here</a>, or on
            the command line, and it shows up on this page as it runs:</p>
          <pre>hproc tune --model DIR --memory 96GiB --db {live.state?.db ?? "study.db"}</pre>
        </div>
      )}
      <Waiting live={live} />
      <ul class="cards">
        {[...data].reverse().map((study) => {
          const best = study.outcome?.recommended;
          return (
            <li key={study.id} class="card study">
              <div class="bar">
                <h2><a href={`#/study/${study.id}`}>{study.study}</a></h2>
                <StateBadge study={study} live={live} />
              </div>
              <p class="faint">{f.modelName(study.model)} under {f.bytes(study.memory_cap_bytes)}, context {study.context}, batch {study.batch}, {study.task}, begun <time dateTime={study.created_utc} title={study.created_utc}>{f.ago(study.created_utc)}</time></p>
              {best ? (
                <dl class="facts">
                  <div><dt>best point</dt><dd><a href={`#/study/${study.id}/trial/${best.trial}`}>{f.floors(best)}</a></dd></div>
                  <div><dt>accuracy</dt><dd>{best.accuracy ? f.percent(best.accuracy.rate) : "–"}</dd></div>
                  <div><dt>bits</dt><dd>{f.bits(best.bits_per_weight)}</dd></div>
                  <div><dt>headroom</dt><dd>{f.bytes(best.headroom_bytes)}</dd></div>
                  <div><dt>decode</dt><dd>{f.rate(best.decode_tok_per_s)}</dd></div>
                </dl>
              ) : <p>{study.outcome ? `No feasible point: ${study.outcome.why}.` : "No best point yet."}</p>}
              <TrialCounts trials={study.trials} runs={stateOf(study, live) === "running"} />
              <Controls study={study} live={live} />
            </li>
          );
        })}
      </ul>
    </>
  );
}
