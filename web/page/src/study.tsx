// One study: what it recommends, and its views.
import { useEffect, useRef } from "preact/hooks";
import { post, type Frontier, type Study, type TrialRow } from "./api";
import { useApi, type Live } from "./app";
import { Exports } from "./export";
import { FloorLine } from "./floor_line";
import * as f from "./format";
import { LiveRun } from "./live";
import { Pareto } from "./pareto";
import { Plane } from "./plane";
import { Controls } from "./start";
import { StateBadge, stateOf, TrialCounts } from "./studies";
import { Trials } from "./trials";

const TABS = [["plane", "Floor plane"], ["pareto", "Pareto"], ["trials", "Trials"], ["live", "Live"], ["compare", "Compare"], ["export", "Export"]];

export function Tabs({ study, tab, hasLazy }: { study: number; tab: string; hasLazy: boolean | null }) {
  // In a narrow window the tabs scroll: the one that is shown is in sight.
  const bar = useRef<HTMLElement | null>(null);
  useEffect(() => { const at = bar.current?.querySelector<HTMLElement>("[aria-current]"); if (at && bar.current) bar.current.scrollLeft = at.offsetLeft - (bar.current.clientWidth - at.offsetWidth) / 2; }, [tab]);
  return <nav class="tabs" aria-label="Views" ref={bar}>{TABS.map(([key, name]) => <a key={key} href={`#/study/${study}/${key}`} aria-current={tab === key ? "page" : undefined}>{key === "plane" && hasLazy === false ? "Floor" : name}</a>)}</nav>;
}

export function Crumbs({ study, name, more }: { study: number; name: string; more?: string }) {
  return <p class="crumbs"><a href="#/">Studies</a> / {more ? <><a href={`#/study/${study}`}>{name}</a> / {more}</> : name}</p>;
}

function Tile({ name, value, more }: { name: string; value: string; more?: string }) {
  return <div class="tile"><dt>{name}</dt><dd><b>{value}</b>{more && <small>{more}</small>}</dd></div>;
}

function Summary({ study }: { study: Study }) {
  const outcome = study.outcome;
  const best = outcome?.recommended;
  return (
    <>
      {outcome?.alarms.map((alarm) => <p key={alarm} class="error" role="alert">Alarm: {alarm}</p>)}
      {outcome && !best && <p class="note">{outcome.fault ? "No recommendation" : "No feasible point"}: {outcome.why}. What binds: {f.words(outcome.bound)}.</p>}
      {best && (
        <dl class="tiles">
          <Tile name="recommended" value={f.floors(best, study.has_lazy)} more={`trial ${best.trial}, ${f.bits(best.bits_per_weight)} bits per weight`} />
          <Tile name="accuracy" value={best.accuracy ? f.percent(best.accuracy.rate) : "–"} more={best.accuracy ? `${best.accuracy.correct} of ${best.accuracy.total}; 95 % ${f.interval(best.accuracy)}` : noAccuracy(study)} />
          <Tile name="memory" value={f.bytes(best.measured_bytes)} more={best.measured_bytes === null ? undefined : `predicted ${f.bytes(best.predicted_bytes)} (${(100 * (best.measured_bytes / best.predicted_bytes - 1)).toFixed(2)} % off)`} />
          <Tile name="headroom" value={f.bytes(best.headroom_bytes)} more={`of ${f.bytes(study.memory_cap_bytes)}`} />
          <Tile name="decode" value={f.rate(best.decode_tok_per_s)} more={`prefill ${f.rate(best.prefill_tok_per_s)}`} />
          <Tile name="what binds it" value={f.words(outcome!.bound)} more={outcome!.why} />
        </dl>
      )}
    </>
  );
}

// Why there is no accuracy.
export const noAccuracy = (study: { model: string }) => (study.model.startsWith("synthetic:") ? "random weights answer no questions" : "not measured");

// What the study is about, in one line.
function about({ model, spec, ...study }: Study): string {
  const { world_size, kv_dtype } = spec.deployment;
  return [model, spec.device_name, world_size > 1 && `${world_size} ranks`, `cap ${f.bytes(study.memory_cap_bytes)}${world_size > 1 ? " a device" : ""}`,
    spec.headroom_bytes > 0 && `headroom ${f.bytes(spec.headroom_bytes)}`, `context ${study.context}`, `batch ${study.batch}`, kv_dtype !== "f16" && `keys and values ${kv_dtype}`,
    study.task, spec.eval.shots > 0 && `${spec.eval.shots} shots`, spec.eval.limit > 0 && `at most ${spec.eval.limit} questions`, spec.eval.seeds > 1 && `${spec.eval.seeds} seeds`,
    spec.strategy !== "predict" && `strategy ${spec.strategy}`, spec.launch.launcher !== "local" && `as jobs of ${spec.launch.launcher}`,
    spec.launch.parallel > 1 && `${spec.launch.parallel} trials at once`].filter(Boolean).join(", ");
}

export function StudyPage({ live, study: id, tab }: { live: Live; study: number; tab: string }) {
  const { data: study, error } = useApi<Study>(`studies/${id}`, live.version);
  const plane = useApi<Frontier>(`studies/${id}/frontier`, live.version);
  const rows = useApi<TrialRow[]>(plane.error ? `studies/${id}/trials` : null, live.version);
  const ladder = useApi<number[]>("ladder", 0).data;
  if (error && !study) return <p class="error" role="alert">{error}. <a href="#/">All studies</a></p>;
  if (!study) return <p class="loading">Reading the study …</p>;
  const trials = plane.data?.trials ?? rows.data;
  const recommended = study.outcome?.recommended?.trial ?? null;
  return (
    <>
      <Crumbs study={id} name={study.study} />
      <div class="bar"><h1>{study.study}</h1><StateBadge study={study} live={live} /></div>
      <p class="faint">{about(study)}, begun <time dateTime={study.created_utc} title={study.created_utc}>{f.ago(study.created_utc)}</time></p>
      <Controls study={study} live={live} />
      <Summary study={study} />
      <TrialCounts trials={study.trials} runs={stateOf(study, live) === "running"} />
      <Tabs study={id} tab={tab} hasLazy={study.has_lazy} />
      <div class="card view">
        {tab === "live" && <LiveRun live={live} study={study} />}
        {tab === "export" && <Exports study={study} trials={trials ?? []} />}
        {tab !== "live" && tab !== "export" && !trials && <p class="loading">{plane.error || "Reading the trials …"}</p>}
        {tab === "plane" && trials && (trials.length === 0 && !plane.data ? <p class="empty">No trial yet; the plane begins with the rate table.</p>
          : plane.data && ladder ? plane.data.has_lazy ? <Plane study={id} frontier={plane.data} ladder={ladder} recommended={recommended} />
            : <FloorLine study={id} frontier={plane.data} ladder={ladder} recommended={recommended} />
            : <p class="note">The plane cannot be drawn: {plane.error || "the ladder is being read"}.</p>)}
        {tab === "pareto" && trials && <Pareto study={study} trials={trials} frontier={plane.data?.pareto_frontier ?? []} recommended={recommended} />}
        {tab === "trials" && trials && <Trials study={id} trials={trials} recommended={recommended} hasLazy={study.has_lazy !== false} />}
      </div>
    </>
  );
}

// A further go at a failed trial.
export function rerun(study: number, trial: number): Promise<unknown> { return post(`studies/${study}/trials/${trial}/rerun`); }
