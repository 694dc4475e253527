// Accuracy with its interval against bytes or headroom, of the trials that answered all questions.
import { useState } from "preact/hooks";
import type { Baseline, Study, StudyRow, TrialRow } from "./api";
import * as f from "./format";
import { GlyphMark, Legend, LOOKS, SHAPES, lookOf } from "./glyphs";
import { facts, Tip, useWidth } from "./plane";
import { byteTicks, niceStep } from "./scales";
import { AsTable, DataTable } from "./tables";

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

interface Mark { t: TrialRow; x: number; y: number; size: number; beyond: boolean }
interface Box { x0: number; x1: number; y0: number; y1: number }

// Where each mark's name goes: clear of its interval and of the line through it, on whichever side is free; null where none is.
function placeNames(marks: Mark[], name: (t: TrialRow) => string, inside: Box): (({ x: number; y: number; anchor: "start" | "middle" | "end" }) | null)[] {
  const taken: Box[] = marks.map((m) => ({ x0: m.x - m.size, x1: m.x + m.size, y0: m.y - m.size, y1: m.y + m.size }));
  return marks.map((m) => {
    const wide = name(m.t).length * 7;
    const gap = m.size + 5;
    for (const [dx, dy, anchor] of [[gap, -6, "start"], [gap, 15, "start"], [-gap, -6, "end"], [-gap, 15, "end"]] as const) {
      const x0 = m.x + dx - (anchor === "start" ? 0 : anchor === "end" ? wide : wide / 2);
      const box = { x0, x1: x0 + wide, y0: m.y + dy - 10, y1: m.y + dy + 3 };
      if (box.x0 < inside.x0 || box.x1 > inside.x1 || box.y0 < inside.y0 || box.y1 > inside.y1) continue;
      if (taken.some((b) => b.x0 < box.x1 && box.x0 < b.x1 && b.y0 < box.y1 && box.y0 < b.y1)) continue;
      taken.push(box);
      return { x: m.x + dx, y: m.y + dy, anchor };
    }
    return null;
  });
}

export function Pareto({ study, trials, frontier, recommended }:
    { study: Study; trials: TrialRow[]; frontier: number[]; recommended: number | null }) {
  const [box, width] = useWidth();
  const [byHeadroom, setByHeadroom] = useState(false);
  const [baselines, setBaselines] = useState(true);
  const [hover, setHover] = useState<TrialRow | null>(null);
  const cap = study.memory_cap_bytes;
  const all = trials.filter((t) => t.state === "complete" && t.accuracy?.all_questions && t.measured_bytes !== null);
  const rows = all.filter((t) => baselines || t.kind === "point");
  if (all.length === 0) {
    return study.model.startsWith("synthetic:") ? <p class="empty">Random weights answer no questions, so there is no accuracy to plot; bytes and rates stand <a href={`#/study/${study.id}/trials`}>with the trials</a>.</p>
      : <p class="empty">No trial has answered all questions yet; the plot begins with the first that does.</p>;
  }
  const value = (t: TrialRow) => (byHeadroom ? cap - t.measured_bytes! : t.measured_bytes!);
  // What does not fit would press those that do into one line: it stands apart, in the order of its bytes.
  const beyond = rows.filter((t) => t.measured_bytes! > cap).sort((a, b) => (byHeadroom ? -1 : 1) * (a.measured_bytes! - b.measured_bytes!));
  const within = rows.filter((t) => t.measured_bytes! <= cap);
  const height = Math.round(Math.max(320, Math.min(width * 0.5, 500)));
  const m = { left: 64, right: 18, top: 16, bottom: 50 };
  const [left, right, bottom] = [m.left, Math.max(m.left + 10, width - m.right), height - m.bottom];
  const apart = beyond.length === 0 ? 0 : Math.min(beyond.length * (width < 520 ? 52 : 104), (right - left) * 0.42);
  const [from, to] = byHeadroom ? [left + apart, right] : [left, right - apart];
  const xs = [...within.map(value), byHeadroom ? 0 : cap];
  const [lowX, highX] = [Math.min(...xs), Math.max(...xs)];
  const pad = Math.max((highX - lowX) * 0.09, highX * 1e-5, 1);
  const x = { from: lowX - pad, to: highX + pad };
  const y = { from: Math.max(0, Math.min(...rows.map((t) => t.accuracy!.low!)) - 0.01), to: Math.min(1, Math.max(...rows.map((t) => t.accuracy!.high!)) + 0.01) };
  const px = (v: number) => from + ((v - x.from) / (x.to - x.from)) * (to - from);
  const py = (v: number) => bottom - ((v - y.from) / (y.to - y.from)) * (bottom - m.top - 18);  // the names of the parts stand above
  const capX = px(byHeadroom ? 0 : cap);
  const fastest = Math.max(...rows.map((t) => f.decode(t) ?? 0));
  const size = (t: TrialRow) => (t.trial === recommended ? 1.25 : 1) * (fastest > 0 ? 4 + 5 * Math.sqrt((f.decode(t) ?? 0) / fastest) : 6);
  const slot = (i: number) => (byHeadroom ? left : to) + ((i + 0.5) / Math.max(1, beyond.length)) * apart;
  const marks: Mark[] = [...within.map((t) => ({ t, x: px(value(t)), y: py(t.accuracy!.rate!), size: size(t), beyond: false })),
    ...beyond.map((t, i) => ({ t, x: slot(i), y: py(t.accuracy!.rate!), size: size(t), beyond: true }))];
  const name = (t: TrialRow) => (t.kind === "point" ? String(t.trial) : width < 520 ? f.kind(t).split(/,| g/)[0] : f.kind(t));
  const names = placeNames(marks, name, { x0: left + 2, x1: right + m.right, y0: m.top, y1: bottom });
  const step = niceStep(y.to - y.from, 5);
  const yTicks: number[] = [];
  for (let tick = Math.ceil(y.from / step) * step; tick <= y.to + 1e-9; tick += step) yTicks.push(tick);
  const xTicks = byteTicks(x.from, x.to, Math.max(2, Math.floor((to - from) / 120))).filter(({ at }) => beyond.every((_, i) => Math.abs(px(at) - slot(i)) > 64));
  const line = within.filter((t) => frontier.includes(t.trial)).sort((a, b) => value(a) - value(b));
  const best = rows.find((t) => t.trial === recommended);
  const tip = hover ? marks.find((k) => k.t.trial === hover.trial) : undefined;
  const short = (t: TrialRow) => f.bytes(t.measured_bytes).replace(/\.\d+/, (d) => (width < 520 ? "" : d.slice(0, 2)));
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
            {apart > 0 && <g>
              <defs><pattern id="pareto-no" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path class="hatch" d="M0 0V7" /></pattern></defs>
              <rect x={byHeadroom ? left : to} y={m.top} width={apart} height={bottom - m.top} fill="url(#pareto-no)" />
              <text class="cap-label" x={(byHeadroom ? left : to) + apart / 2} y={m.top + 12} text-anchor="middle">{width < 520 ? "too large" : "does not fit, not to scale"}</text>
              {beyond.map((t, i) => <text key={t.trial} class="tick" x={slot(i)} y={bottom + 18} text-anchor="middle">{short(t)}</text>)}
            </g>}
            {yTicks.map((tick) => <g key={tick}><path class="grid" d={`M${left} ${py(tick)}H${right}`} /><text class="tick" x={left - 8} y={py(tick) + 4} text-anchor="end">{f.percent(tick, step < 0.01 ? 1 : 0)}</text></g>)}
            {xTicks.map(({ at, text }) => <g key={at}><path class="grid" d={`M${px(at)} ${m.top}V${bottom}`} /><text class="tick" x={px(at)} y={bottom + 18} text-anchor="middle">{text}</text></g>)}
            <path class="axis" d={`M${left} ${m.top}V${bottom}H${right}`} />
            <path class="cap" d={`M${capX} ${m.top}V${bottom}`} />
            <text class="cap-label" x={capX + (byHeadroom ? 6 : -6)} y={m.top + 12} text-anchor={byHeadroom ? "start" : "end"}>memory cap</text>
            {line.length > 1 && <path class="frontier" d={line.map((t, i) => `${i ? "L" : "M"}${px(value(t)).toFixed(1)} ${py(t.accuracy!.rate!).toFixed(1)}`).join("")} />}
            {marks.map(({ t, x: cx }) => <path key={t.trial} class={`whisker ${lookOf(t, recommended)}`} d={`M${cx} ${py(t.accuracy!.low!)}V${py(t.accuracy!.high!)}M${cx - 4} ${py(t.accuracy!.low!)}h8M${cx - 4} ${py(t.accuracy!.high!)}h8`} />)}
            {marks.map(({ t, x: cx, y: cy, size: r }, i) => {
              const a = t.accuracy!;
              const look = lookOf(t, recommended);
              const at = names[i];
              return (
                <a key={t.trial} class="point" href={`#/study/${study.id}/trial/${t.trial}`} data-trial={t.trial}
                   aria-label={`Trial ${t.trial}, ${f.kind(t)}, ${SHAPES[look].label}: ${f.percent(a.rate)}, interval ${f.interval(a)}, ${f.bytes(t.measured_bytes)}, ${f.rate(f.decode(t))}`}
                   onMouseEnter={() => setHover(t)} onMouseLeave={() => setHover(null)} onFocus={() => setHover(t)} onBlur={() => setHover(null)}>
                  <circle class="target" cx={cx} cy={cy} r={12} />
                  <GlyphMark look={look} size={r} x={cx} y={cy} />
                  {at && <text class="mark" x={at.x} y={at.y} text-anchor={at.anchor}>{name(t)}</text>}
                </a>
              );
            })}
            <text class="title" x={(from + to) / 2} y={height - 10} text-anchor="middle">{byHeadroom ? "headroom under the cap →" : "memory held once loaded →"}</text>
            <text class="title" transform={`translate(14 ${(m.top + height - m.bottom) / 2}) rotate(-90)`} text-anchor="middle">accuracy, 95 % interval</text>
          </svg>
        )}
        {tip && <Tip trial={tip.t} rows={facts(tip.t, study.has_lazy !== false)} x={tip.x} y={tip.y} width={width} />}
      </div>
      <Legend looks={LOOKS.filter((look) => rows.some((t) => lookOf(t, recommended) === look))} />
      <p class="hint">Larger glyphs decode faster{fastest > 0 ? `, up to ${f.rate(fastest)}` : ""}. The line joins trials that no other beats in accuracy, decode rate and bytes at once.</p>
      {best && study.outcome && <p class="why"><b>Trial {best.trial} is recommended:</b> {reason(best, all, study.outcome.why)}.</p>}
      {best && <Baselines study={study} />}
      <AsTable>{() => (
        <DataTable caption="Trials that answered all questions" rows={rows} keyOf={(t) => t.trial} columns={[
          { head: "Trial", cell: (t) => <a href={`#/study/${study.id}/trial/${t.trial}`}>{t.trial}{t.trial === recommended ? " (recommended)" : ""}</a>, sort: (t) => t.trial },
          { head: "What", cell: (t) => (t.kind === "point" ? f.floors(t, study.has_lazy) : f.kind(t)), sort: (t) => t.kind },
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

// What the model comes to as stored and in plain INT4, question by question beside the recommended point.
function Baselines({ study }: { study: StudyRow }) {
  const rows = study.outcome?.baselines ?? [];
  const int4 = study.outcome?.int4_g128;
  return (
    <>
      {rows.length > 0 && <DataTable caption="The baselines beside the recommended point" rows={rows} keyOf={(b) => b.trial} columns={[
        { head: "Baseline", cell: (b) => <a href={`#/study/${study.id}/compare/${study.outcome!.recommended!.trial}/${b.trial}`}>{f.kind(b)}</a> },
        { head: "Takes", numeric: true, cell: (b: Baseline) => <>{f.bytes(b.measured_bytes)}, {b.fits ? "fits" : "does not fit"}</> },
        { head: "Accuracy", numeric: true, cell: (b) => f.percent(b.accuracy?.rate) },
        { head: "Decode", numeric: true, cell: (b) => f.rate(b.decode_tok_per_s) },
        { head: "Right there alone", numeric: true, cell: (b) => b.only_baseline_right },
        { head: "Right here alone", numeric: true, cell: (b) => b.only_recommended_right },
        { head: "p of the difference", numeric: true, cell: (b) => (b.mcnemar_p === null ? "–" : b.mcnemar_p.toPrecision(2)) },
      ]} />}
      {int4 && <p class="hint">Packed in INT4, groups of 128, the model would take {f.bytes(int4.total_bytes)} in all: {int4.fits ? "fits" : "does not fit"}.</p>}
    </>
  );
}
