// Accuracy with its interval against bytes or headroom, of the trials that answered all questions.
import { useState } from "preact/hooks";
import type { StudyRow, TrialRow } from "./api";
import * as f from "./format";
import { GlyphMark, Legend, SHAPES, lookOf, verdictText, type Look } from "./glyphs";
import { useWidth } from "./plane";
import { AsTable, DataTable } from "./tables";

const NAMES = { point: "point", baseline_16bit: "16 bits, as stored", baseline_int4: "INT4 g128", baseline_int4_pruned: "INT4, experts pruned" };

function niceStep(span: number, parts: number): number {
  const raw = span / parts;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= raw) ?? raw;
}

// Why the best one is recommended: the most accurate point, and of several the fastest.
function reason(best: TrialRow, rows: TrialRow[], why: string): string {
  const a = best.accuracy!;
  const others = rows.filter((t) => t.kind === "point" && t.trial !== best.trial);
  const equals = others.filter((t) => t.accuracy!.rate === a.rate);
  const most = others.length === 0 ? "the only point that fits and answered all questions"
    : equals.length === 0 ? `the most accurate of ${others.length + 1} points that fit`
    : `no point that fits is more accurate, and the fastest of ${equals.length + 1} equals`;
  return `${most} (${a.correct} of ${a.answered}); ${why}`;
}

export function Pareto({ study, trials, frontier, recommended }:
    { study: StudyRow; trials: TrialRow[]; frontier: number[]; recommended: number | null }) {
  const [box, width] = useWidth();
  const [byHeadroom, setByHeadroom] = useState(false);
  const [baselines, setBaselines] = useState(true);
  const cap = study.memory_cap_bytes;
  const all = trials.filter((t) => t.state === "complete" && t.accuracy?.all_questions && t.measured_bytes !== null);
  const rows = all.filter((t) => baselines || t.kind === "point");
  if (all.length === 0) return <p class="empty">No trial has answered all questions yet; the plot begins with the first that does.</p>;
  const value = (t: TrialRow) => (byHeadroom ? cap - t.measured_bytes! : t.measured_bytes!);
  const xs = [...rows.map(value), byHeadroom ? 0 : cap];
  const [lowX, highX] = [Math.min(...xs), Math.max(...xs)];
  const pad = Math.max((highX - lowX) * 0.08, highX * 0.004, 1);
  const x = { from: lowX - pad, to: highX + pad };
  const y = { from: Math.max(0, Math.min(...rows.map((t) => t.accuracy!.low!)) - 0.01), to: Math.min(1, Math.max(...rows.map((t) => t.accuracy!.high!)) + 0.01) };
  const height = Math.round(Math.max(300, Math.min(width * 0.5, 480)));
  const m = { left: 72, right: 18, top: 16, bottom: 50 };
  const px = (v: number) => m.left + ((v - x.from) / (x.to - x.from)) * (width - m.left - m.right);
  const py = (v: number) => height - m.bottom - ((v - y.from) / (y.to - y.from)) * (height - m.top - m.bottom);
  const fastest = Math.max(...rows.map((t) => f.decode(t) ?? 0));
  const size = (t: TrialRow) => (fastest > 0 ? 4 + 6 * Math.sqrt((f.decode(t) ?? 0) / fastest) : 6);
  const step = niceStep(y.to - y.from, 5);
  const yTicks: number[] = [];
  for (let tick = Math.ceil(y.from / step) * step; tick <= y.to + 1e-9; tick += step) yTicks.push(tick);
  const xCount = width < 520 ? 3 : 5;
  const xTicks = Array.from({ length: xCount }, (_, i) => x.from + ((i + 0.5) / xCount) * (x.to - x.from));
  const line = rows.filter((t) => frontier.includes(t.trial)).sort((a, b) => value(a) - value(b));
  const best = rows.find((t) => t.trial === recommended);
  const looks = [...new Set(rows.map((t) => lookOf(t, recommended)))] as Look[];
  return (
    <section class="pareto" aria-label="Accuracy against memory">
      <div class="bar">
        <div class="choice" role="group" aria-label="Across">
          <button type="button" aria-pressed={!byHeadroom} onClick={() => setByHeadroom(false)}>Bytes held</button>
          <button type="button" aria-pressed={byHeadroom} onClick={() => setByHeadroom(true)}>Headroom</button>
        </div>
        {all.some((t) => t.kind !== "point") && <label class="check"><input type="checkbox" checked={baselines} onChange={() => setBaselines(!baselines)} /> with the baselines</label>}
      </div>
      <div class="plot" ref={box}>
        {width > 0 && (
          <svg width={width} height={height} role="group" aria-label={`Accuracy with 95 % interval over ${byHeadroom ? "headroom" : "measured bytes"}: ${rows.length} trials`}>
            {yTicks.map((tick) => <g key={tick}><path class="grid" d={`M${m.left} ${py(tick)}H${width - m.right}`} /><text class="tick" x={m.left - 8} y={py(tick) + 4} text-anchor="end">{f.percent(tick, step < 0.01 ? 1 : 0)}</text></g>)}
            {xTicks.map((tick) => <text key={tick} class="tick" x={px(tick)} y={height - m.bottom + 18} text-anchor="middle">{f.bytes(Math.round(tick))}</text>)}
            <path class="axis" d={`M${m.left} ${m.top}V${height - m.bottom}H${width - m.right}`} />
            <path class="cap" d={`M${px(byHeadroom ? 0 : cap)} ${m.top}V${height - m.bottom}`} />
            <text class="cap-label" x={px(byHeadroom ? 0 : cap) + (px(byHeadroom ? 0 : cap) > width / 2 ? -6 : 6)} y={m.top + 10} text-anchor={px(byHeadroom ? 0 : cap) > width / 2 ? "end" : "start"}>memory cap</text>
            {line.length > 1 && <path class="frontier" d={line.map((t, i) => `${i ? "L" : "M"}${px(value(t)).toFixed(1)} ${py(t.accuracy!.rate!).toFixed(1)}`).join("")} />}
            {rows.map((t) => {
              const a = t.accuracy!;
              const look = lookOf(t, recommended);
              return (
                <a key={t.trial} class="point" href={`#/study/${study.id}/trial/${t.trial}`} data-trial={t.trial}
                   aria-label={`Trial ${t.trial}, ${NAMES[t.kind]}, ${SHAPES[look].label}: ${f.percent(a.rate)}, interval ${f.interval(a)}, ${f.bytes(t.measured_bytes)}, ${f.rate(f.decode(t))}`}>
                  <title>{`Trial ${t.trial}, ${t.kind === "point" ? f.floors(t) : NAMES[t.kind]}: ${verdictText(t)}, ${f.bytes(t.measured_bytes)}, ${f.rate(f.decode(t))}`}</title>
                  <path class="whisker" d={`M${px(value(t))} ${py(a.low!)}V${py(a.high!)}M${px(value(t)) - 4} ${py(a.low!)}h8M${px(value(t)) - 4} ${py(a.high!)}h8`} />
                  <circle class="target" cx={px(value(t))} cy={py(a.rate!)} r={12} />
                  <GlyphMark look={look} size={size(t)} x={px(value(t))} y={py(a.rate!)} />
                  <text class="mark" x={px(value(t)) + size(t) + 6} y={py(a.rate!) + 4}>{t.kind === "point" ? t.trial : NAMES[t.kind]}</text>
                </a>
              );
            })}
            <text class="title" x={(m.left + width - m.right) / 2} y={height - 10} text-anchor="middle">{byHeadroom ? "headroom under the cap →" : "memory held once loaded →"}</text>
            <text class="title" transform={`translate(14 ${(m.top + height - m.bottom) / 2}) rotate(-90)`} text-anchor="middle">accuracy, 95 % interval</text>
          </svg>
        )}
      </div>
      <Legend looks={looks} />
      <p class="hint">Larger glyphs decode faster{fastest > 0 ? `, up to ${f.rate(fastest)}` : ""}. The line joins trials that no other beats in accuracy, decode rate and bytes at once.</p>
      {best && study.outcome && <p class="why"><b>Trial {best.trial} is recommended:</b> {reason(best, all, study.outcome.why)}.</p>}
      <AsTable>{() => (
        <DataTable caption="Trials that answered all questions" rows={rows} keyOf={(t) => t.trial} columns={[
          { head: "Trial", cell: (t) => <a href={`#/study/${study.id}/trial/${t.trial}`}>{t.trial}{t.trial === recommended ? " (recommended)" : ""}</a>, sort: (t) => t.trial },
          { head: "What", cell: (t) => (t.kind === "point" ? f.floors(t) : NAMES[t.kind]), sort: (t) => t.kind },
          { head: "Accuracy", numeric: true, cell: (t) => f.percent(t.accuracy!.rate), sort: (t) => t.accuracy!.rate! },
          { head: "95 % interval", numeric: true, cell: (t) => f.interval(t.accuracy!), sort: (t) => t.accuracy!.low! },
          { head: "Bytes", numeric: true, cell: (t) => f.bytes(t.measured_bytes), sort: (t) => t.measured_bytes! },
          { head: "Headroom", numeric: true, cell: (t) => f.bytes(cap - t.measured_bytes!), sort: (t) => cap - t.measured_bytes! },
          { head: "Decode", numeric: true, cell: (t) => f.rate(f.decode(t)), sort: (t) => f.decode(t) ?? -1 },
          { head: "Not beaten", cell: (t) => (frontier.includes(t.trial) ? "yes" : "no"), sort: (t) => (frontier.includes(t.trial) ? 1 : 0) },
        ]} />
      )}</AsTable>
    </section>
  );
}
