// The run as it goes on: phase, progress, time left, and small series over time.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import type { Study } from "./api";
import type { Live } from "./app";
import * as f from "./format";
import { useWidth } from "./plane";
import type { Lane, Series } from "./run_state";
import { AsTable, DataTable } from "./tables";

export function LiveRun({ live, study }: { live: Live; study: Study }) {
  const { run } = live;
  const runs = Boolean(live.state?.running);
  if (run.studyId !== study.id) {
    return <p class="empty">{runs && run.studyId === null ? "A search is being prepared." : "Nothing runs on this study, and the last search was about another one or too long ago."}</p>;
  }
  const lanes = run.lanes.length > 0 ? run.lanes : [emptyLane];
  return (
    <section class="live" aria-label="Live run">
      {!runs && <p class="lead" role="status">{`The search ${run.over === "done" ? "is done" : run.over === "interrupted" ? "is paused" : "has ended"}.`}</p>}
      {lanes.map((lane, i) => <InFlight key={i} lane={lane} runs={runs} study={study} several={lanes.length > 1 ? i + 1 : 0} />)}
      <h2>What happened</h2>
      {run.log.length === 0 ? <p class="empty">Nothing yet.</p> : <ol class="events" tabIndex={0} aria-label="What happened, newest first">{run.log.map((line, i) => <li key={run.log.length - i}><time dateTime={line.utc}>{f.clock(line.utc)}</time> {line.text}</li>)}</ol>}
    </section>
  );
}

const none: Series = { t: [], v: [] };
const emptyLane: Lane = { trial: null, queue: null, phases: [], progress: null, questions: null, tokens: none, right: none, live: none, peak: none };

// One trial in flight, and the series of all that ran in its place. `several`: which of several, from 1; 0: the only one.
function InFlight({ lane, runs, study, several }: { lane: Lane; runs: boolean; study: Study; several: number }) {
  const { trial, queue } = lane;
  const q = lane.questions;
  const p = lane.progress;
  const phase = lane.phases.find((x) => x.seconds === null)?.phase;
  // Behind the warm-up come the probes, and behind the last answer, or where nothing is asked, rates are timed: nobody tells how far.
  const asking = q !== null && q.answered < q.questions;
  const warm = !phase && lane.phases.some((x) => x.phase === "warmup");
  const timing = warm && (q !== null ? !asking : study.model.startsWith("synthetic:"));
  const done = timing ? null : q ? q.answered / q.questions : p ? p.done / Math.max(1, p.total) : null;
  const left = timing ? null : q && q.rate ? (q.questions - q.answered) / q.rate : p && p.rate ? (p.total - p.done) / p.rate : null;
  const of = several > 0 ? ` (${several})` : "";
  return (
    <section aria-label={several > 0 ? `In flight, ${several}` : "In flight"}>
      {runs && <p class="lead" role="status">{trial
        ? `Trial ${trial.number}: ${trial.kind === "point" ? `${f.words(trial.purpose)} ${f.floors(trial, study.has_lazy)}` : f.words(trial.kind)}${trial.attempt > 1 ? `, attempt ${trial.attempt}` : ""}` : "Between two trials"}</p>}
      {runs && trial && queue?.state === "pending" && <p>Waits in the queue{queue.job ? ` as job ${queue.job}` : ""}{queue.reason ? `: ${queue.reason}` : ""}.</p>}
      {runs && trial && queue?.state !== "pending" && <>
        <p>{q ? `questions: ${q.answered} of ${q.questions}, ${q.correct} right${timing ? "; rates are timed" : ""}` : timing ? "rates are timed" : phase ?? (warm ? "garbage probes" : "…")}{asking && q.rate ? `, ${q.rate.toFixed(1)} a second` : p?.rate ? `, ${p.unit === "bytes" ? `${f.bytes(Math.round(p.rate))} a second` : `${p.rate.toFixed(0)} ${p.unit} a second`}` : ""}{left !== null ? `, ${f.duration(left)} left` : ""}. Predicted {f.bytes(trial.predicted_bytes)}{queue ? `; job ${queue.job} on ${queue.node}` : ""}.</p>
        <progress value={done ?? undefined} max={1} aria-label={`Progress of the step${of}`} />
        <ol class="steps">{lane.phases.map((x, i) => <li key={i} class={x.seconds === null ? "now" : ""}>{x.phase}{x.seconds !== null ? ` ${f.duration(x.seconds)}` : " …"}</li>)}</ol>
      </>}
      <div class="columns charts">
        <Chart title={`Decode while answering${of}`} unit="tok/s" series={[{ name: "rate", data: lane.tokens, color: "--point" }]} show={(v) => f.rate(v)} />
        <Chart title={`Memory${of}`} unit="bytes" stepped series={[{ name: "held", data: lane.live, color: "--point" }, { name: "peak", data: lane.peak, color: "--garbage-ink", dash: true }]} show={(v) => f.bytes(Math.round(v))} limit={study.memory_cap_bytes} />
        <Chart title={`Right so far${of}`} unit="share" series={[{ name: "right", data: lane.right, color: "--proven" }]} show={(v) => f.percent(v)} most={1} />
      </div>
    </section>
  );
}

// What axes count in: of time what clocks do, of bytes powers of two.
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800];
const SHARES = [0.01, 0.02, 0.05, 0.1, 0.25, 0.5];
const POWERS = Array.from({ length: 50 }, (_, i) => 2 ** i);
const elapsed = (s: number) => (s === 0 || s < 120 && s % 60 !== 0 ? `${s} s` : s < 7200 ? `${+(s / 60).toFixed(1)} min` : `${+(s / 3600).toFixed(1)} h`);

interface Curve { name: string; data: Series; color: string; dash?: boolean }

function Chart({ title, unit, series, show, limit, most = Infinity, stepped }: { title: string; unit: string; series: Curve[]; show: (v: number) => string; limit?: number; most?: number; stepped?: boolean }) {
  const [box, width] = useWidth();
  const holder = useRef<HTMLDivElement | null>(null);
  const plot = useRef<uPlot | null>(null);
  const points = series[0].data.t.length;
  const t = series[0].data.t;
  const data = [t, ...series.map((s) => s.data.v), ...(limit !== undefined ? [t.map(() => limit)] : [])] as uPlot.AlignedData;
  useEffect(() => {
    if (width === 0 || points === 0 || !holder.current) return;
    const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const make = () => {
      plot.current?.destroy();
      const axis = { stroke: css("--faint"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
      plot.current = new uPlot({
        width, height: 176, legend: { show: false }, cursor: { drag: { x: false, y: false } },
        scales: { x: { time: false }, y: { range: (_u, low, high) => { const pad = unit === "share" ? Math.max(0.05, (high - low) * 0.1) : (high - low) * 0.1 || Math.abs(high) * 0.02 || 1; return [Math.max(0, low - pad), Math.min(most, high + pad)]; } } },
        axes: [{ ...axis, size: 32, incrs: SECONDS, values: (_u, v) => v.map(elapsed), space: 64 },
          { ...axis, size: 74, ...(unit === "bytes" ? { incrs: POWERS, space: 34 } : unit === "share" ? { incrs: SHARES } : {}), values: (_u, v) => v.map((x) => (unit === "bytes" ? f.bytes(x).replace(/\.0+ /, " ") : unit === "share" ? f.percent(x, 0) : show(x).replace(" tok/s", ""))) }],
        series: [{}, ...series.map((s) => ({ label: s.name, stroke: css(s.color), width: 2, dash: s.dash ? [5, 4] : undefined, points: { show: !stepped && points < 40, size: 5 }, paths: stepped ? uPlot.paths.stepped!({ align: 1 }) : undefined })),
          ...(limit !== undefined ? [{ label: "cap", stroke: css("--not"), width: 1.5, dash: [3, 3], points: { show: false } }] : [])],
      }, data, holder.current!);
    };
    make();
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", make);
    return () => { dark.removeEventListener("change", make); plot.current?.destroy(); plot.current = null; };
  }, [width, points === 0, points < 40]);
  useEffect(() => { plot.current?.setData(data); }, [points, series[0].data.t[points - 1]]);
  const last = points > 0 ? series.map((s) => `${s.name} ${show(s.data.v.filter((x) => x !== null).pop() ?? 0)}`).join(", ") : "nothing measured yet";
  return (
    <section class="chart" aria-label={title}>
      <h2>{title}</h2>
      <p class="faint">{last}{limit !== undefined && points > 0 ? `; cap ${show(limit)}` : ""}</p>
      <div ref={box}>{points > 0 && <div ref={holder} role="img" aria-label={`${title} over time, in ${unit}; ${last}`} />}</div>
      {points > 0 && <AsTable>{() => <DataTable caption={`${title} over time`} rows={t.map((at, i) => ({ t: at, v: series.map((s) => s.data.v[i]) })).filter((r) => r.v[0] !== null).reverse() as { t: number; v: number[] }[]} keyOf={(r) => r.t}
        columns={[{ head: "Seconds", numeric: true, cell: (r) => r.t.toFixed(1), sort: (r) => r.t }, ...series.map((s, i) => ({ head: s.name, numeric: true, cell: (r: { v: number[] }) => show(r.v[i]), sort: (r: { v: number[] }) => r.v[i] }))]} />}</AsTable>}
    </section>
  );
}
