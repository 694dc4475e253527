// The floor plane: strict up, lazy to the right, both in rungs of the ladder. What the plan says fits, what loads have shown
// of the two frontiers, and every trial where it stands.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, type At, type Frontier, type Pair, type PlanAnswer, type TrialRow } from "./api";
import * as f from "./format";
import { GlyphMark, Legend, lookOf, LOOKS, SHAPES, verdictText } from "./glyphs";
import { AsTable, DataTable } from "./tables";
import { trialColumns } from "./trials";
import { ZoomButtons } from "./zoom";

export const TICKS = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.997, 0.999, 0.9995, 0.9999, 1];

export interface View { x0: number; x1: number; y0: number; y1: number }  // rungs; x lazy, y strict

// The lowest rung that holds `floor`.
export function rungOf(ladder: number[], floor: number): number {
  let [low, high] = [0, ladder.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ladder[middle] >= floor - 1e-12) high = middle; else low = middle + 1;
  }
  return low;
}

// The width of an element, as it changes.
export function useWidth(): [{ current: HTMLDivElement | null }, number] {
  const ref = useRef<HTMLDivElement | null>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    if (!ref.current) return;
    const watch = new ResizeObserver((entries) => setWidth(Math.floor(entries[0].contentRect.width)));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return [ref, width];
}

interface Corner { x: number; y: number }

// Corners of the union of the rectangles from each point to the lower left (sign 1) or to the upper right (sign -1):
// those that no other covers, by falling y.
function corners(points: Corner[], sign: 1 | -1): Corner[] {
  const sorted = [...points].sort((a, b) => sign * (b.y - a.y) || sign * (b.x - a.x));
  const kept: Corner[] = [];
  for (const point of sorted) {
    const last = kept[kept.length - 1];
    if (!last || sign * (point.x - last.x) > 0) kept.push(point);
  }
  return kept;
}

interface Scale { x: (rung: number) => number; y: (rung: number) => number }

// The floors to write between two rungs, no nearer to each other than `gap` pixels: round ones, and in a narrow view any.
export function ticksBetween(ladder: number[], from: number, to: number, pixel: (rung: number) => number, gap: number): { floor: number; rung: number }[] {
  const spaced = (rungs: number[]) => {
    let last = -Infinity;
    return rungs.filter((rung) => {
      if (rung < Math.max(0, from) || rung > Math.min(to, ladder.length - 1) || Math.abs(pixel(rung) - last) < gap) return false;
      last = pixel(rung);
      return true;
    }).map((rung) => ({ floor: ladder[rung], rung }));
  };
  const round = spaced(TICKS.map((floor) => rungOf(ladder, floor)));
  if (round.length > 2) return round;
  const step = [1, 2, 4, 10, 20, 40].find((n) => Math.abs(pixel(n) - pixel(0)) >= 1.3 * gap) ?? 100;  // they have more digits
  const rungs: number[] = [];
  for (let rung = Math.ceil(from / step) * step; rung <= to; rung += step) rungs.push(rung);
  return spaced(rungs);
}

// The outline of such a union, closed along the edges of the view.
function outline(points: Corner[], sign: 1 | -1, view: View, s: Scale): { area: string; edge: string } {
  const kept = corners(points, sign);
  if (kept.length === 0) return { area: "", edge: "" };
  const [far, near] = sign === 1 ? [view.x0, view.y0] : [view.x1, view.y1];
  let edge = `M${s.x(far).toFixed(1)} ${s.y(kept[0].y).toFixed(1)}`;
  kept.forEach((point, i) => {
    edge += `H${s.x(point.x).toFixed(1)}`;
    edge += `V${s.y(i + 1 < kept.length ? kept[i + 1].y : near).toFixed(1)}`;
  });
  return { area: `${edge}H${s.x(far).toFixed(1)}Z`, edge };
}

// The facts of a trial in a few lines. Of a dense model the lazy floor is none.
export function facts(t: TrialRow, hasLazy = true): [string, string][] {
  const rows: [string, string][] = [t.kind !== "point" ? ["what", f.kind(t)] : hasLazy ? ["floors", f.floors(t)] : ["floor", f.floor(t.strict)], ["purpose", f.words(t.purpose)], ["verdict", verdictText(t)],
    ["bits per weight", f.bits(t.bits_per_weight)], ["predicted", f.bytes(t.predicted_bytes)]];
  if (t.measured_bytes !== null && t.state === "complete") rows.push(["measured", f.bytes(t.measured_bytes)]);
  if (t.accuracy?.rate !== null && t.accuracy) rows.push(["accuracy", `${f.percent(t.accuracy.rate)}, 95 % ${f.interval(t.accuracy)}`]);
  if (f.decode(t) !== null) rows.push(["decode", f.rate(f.decode(t))]);
  return rows;
}

function startView(frontier: Frontier, ladder: number[]): View {
  const { lowest, highest } = frontier.window;
  const [x0, x1, y0, y1] = [lowest.lazy, highest.lazy, lowest.strict, highest.strict].map((floor) => rungOf(ladder, floor));
  // What stands on the lowest rungs keeps clear of the axes.
  const [padX, padY] = [Math.max(3, (x1 - x0) * 0.02), Math.max(3, (y1 - y0) * 0.06)];
  return { x0: x0 - padX, x1: Math.max(x1, x0 + 8), y0: y0 - padY, y1: Math.max(y1, y0 + 8) };
}

export function Plane({ study, frontier, ladder, recommended }:
    { study: number; frontier: Frontier; ladder: number[]; recommended: number | null }) {
  const [box, width] = useWidth();
  const whole = useMemo(() => startView(frontier, ladder), [frontier.study, frontier.window.highest.strict, frontier.window.highest.lazy, ladder]);
  const [view, setView] = useState<View | null>(null);
  const [hover, setHover] = useState<TrialRow | null>(null);
  const [active, setActive] = useState(0);
  const [drag, setDrag] = useState<{ x0: number; y0: number; x1: number; y1: number } | null>(null);
  const [asked, setAsked] = useState<{ strict: number; lazy: number } | null>(null);
  const v = view ?? whole;

  const height = Math.round(Math.max(330, Math.min(width * 0.6, 600)));
  const margin = { left: 72, right: 26, top: 14, bottom: 48 };
  const inner = { width: Math.max(10, width - margin.left - margin.right), height: height - margin.top - margin.bottom };
  const s: Scale = {
    x: (rung) => margin.left + ((rung - v.x0) / (v.x1 - v.x0)) * inner.width,
    y: (rung) => margin.top + inner.height - ((rung - v.y0) / (v.y1 - v.y0)) * inner.height,
  };
  const rungX = (pixel: number) => v.x0 + ((pixel - margin.left) / inner.width) * (v.x1 - v.x0);
  const rungY = (pixel: number) => v.y0 + ((margin.top + inner.height - pixel) / inner.height) * (v.y1 - v.y0);
  const at = (p: Pair | At | TrialRow) => ({ x: rungOf(ladder, p.lazy), y: rungOf(ladder, p.strict) });

  const points = useMemo(() => frontier.trials.filter((t) => t.kind === "point").map((t) => ({ t, ...at(t), look: lookOf(t, recommended) }))
    .sort((a, b) => LOOKS.indexOf(b.look) - LOOKS.indexOf(a.look)), [frontier, ladder, recommended]);
  const shown = points.filter((p) => p.x >= v.x0 && p.x <= v.x1 && p.y >= v.y0 && p.y <= v.y1);
  // For the arrows: from left to right.
  const order = useMemo(() => [...points].sort((a, b) => a.x - b.x || a.y - b.y).map((p) => p.t.trial), [points]);
  const activeTrial = order[Math.min(active, order.length - 1)];
  const small = width < 520;
  const size = shown.length > 600 ? (small ? 2.2 : 3.2) : shown.length > 120 ? (small ? 3.4 : 4.4) : small ? 5.5 : 6.5;

  const clip = `plane-clip-${study}`;
  const predicted = outline(frontier.predicted_fit_frontier.map(at), 1, v, s);
  // Whatever was loaded has shown that it fits, garbage too.
  const loaded = frontier.trials.filter((t) => t.kind === "point" && (t.state === "complete" || t.verdict.reason === "garbage_output"));
  const inside = outline(loaded.map(at), 1, v, s);
  const outside = outline(frontier.fit_frontier.outside.map(at), -1, v, s);
  const garbage = outline(frontier.garbage_frontier.garbage.map(at), 1, v, s);
  const sensible = outline(frontier.garbage_frontier.sensible.map(at), -1, v, s);
  const ticksX = ticksBetween(ladder, Math.max(v.x0, rungOf(ladder, frontier.lowest.lazy)), v.x1, s.x, 44);
  const ticksY = ticksBetween(ladder, Math.max(v.y0, rungOf(ladder, frontier.lowest.strict)), v.y1, s.y, 20);
  const best = points.find((p) => p.look === "recommended");
  // Close enough to tell the best point from its neighbours.
  const nearBest = best && { x0: best.x - 12, x1: best.x + 12, y0: best.y - 8, y1: best.y + 8 };
  const above = best ? points.filter((p) => p.look === "out_of_memory" && p.x >= best.x && p.y >= best.y && p.x - best.x + p.y - best.y <= 3) : [];

  const zoom = (factor: number, cx = (v.x0 + v.x1) / 2, cy = (v.y0 + v.y1) / 2) => {
    const [w, h] = [(v.x1 - v.x0) * factor, (v.y1 - v.y0) * factor];
    if (w < 2 || h < 2) return;
    if (w >= whole.x1 - whole.x0 && h >= whole.y1 - whole.y0) { setView(null); return; }
    setView({ x0: cx - (cx - v.x0) * factor, x1: cx + (v.x1 - cx) * factor, y0: cy - (cy - v.y0) * factor, y1: cy + (v.y1 - cy) * factor });
  };
  const place = (event: MouseEvent) => {
    const rect = (event.currentTarget as Element).getBoundingClientRect();
    return { x: event.clientX - rect.left, y: event.clientY - rect.top };
  };
  const ask = (lazy: number, strict: number) => setAsked({ lazy: ladder[clamp(Math.round(lazy), ladder)], strict: ladder[clamp(Math.round(strict), ladder)] });
  const svg = useRef<SVGSVGElement | null>(null);
  const focusTrial = (index: number) => {
    const next = Math.max(0, Math.min(order.length - 1, index));
    setActive(next);
    const row = points.find((p) => p.t.trial === order[next]);
    if (row && (row.x < v.x0 || row.x > v.x1 || row.y < v.y0 || row.y > v.y1)) setView(null);
    requestAnimationFrame(() => svg.current?.querySelector<SVGAElement>(`[data-trial="${order[next]}"]`)?.focus());
  };
  const keys = (event: KeyboardEvent) => {
    const moves: Record<string, () => void> = {
      ArrowRight: () => focusTrial(active + 1), ArrowLeft: () => focusTrial(active - 1), ArrowUp: () => focusTrial(active + 1),
      ArrowDown: () => focusTrial(active - 1), Home: () => focusTrial(0), End: () => focusTrial(order.length - 1),
      "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), "0": () => setView(null),
    };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move();
  };

  const tip = hover ? points.find((p) => p.t.trial === hover.trial) : undefined;
  return (
    <section class="plane" aria-label="The floor plane">
      <div class="bar">
        <p class="hint">Drag to zoom in, press a trial to open it, press a free place to see what it would cost.</p>
        <ZoomButtons step={0.7} zoom={zoom} whole={view && (() => setView(null))}>
          {nearBest && <button type="button" onClick={() => setView(nearBest)}>Best point</button>}
        </ZoomButtons>
      </div>
      <div class="plot" ref={box}>
        {width > 0 && (
          <svg ref={svg} width={width} height={height} role="group" onKeyDown={keys}
               aria-label={`Floor plane: ${points.length} trials; arrows go from trial to trial, enter opens one`}
               onWheel={(e) => { if (e.ctrlKey || e.metaKey) { e.preventDefault(); const p = place(e); zoom(e.deltaY < 0 ? 0.8 : 1.25, rungX(p.x), rungY(p.y)); } }}
               onMouseDown={(e) => { if (e.button === 0 && !(e.target as Element).closest("a")) { const p = place(e); setDrag({ x0: p.x, y0: p.y, x1: p.x, y1: p.y }); e.preventDefault(); } }}
               onMouseMove={(e) => { if (drag) { const p = place(e); setDrag({ ...drag, x1: p.x, y1: p.y }); } }}
               onMouseLeave={() => setDrag(null)}
               onMouseUp={() => {
                 if (!drag) return;
                 const [x0, x1] = [rungX(Math.min(drag.x0, drag.x1)), rungX(Math.max(drag.x0, drag.x1))];
                 const [y0, y1] = [rungY(Math.max(drag.y0, drag.y1)), rungY(Math.min(drag.y0, drag.y1))];
                 if (Math.abs(drag.x1 - drag.x0) > 12 && Math.abs(drag.y1 - drag.y0) > 12 && x1 - x0 > 2 && y1 - y0 > 2) setView({ x0, x1, y0, y1 });
                 else if (drag.x0 > margin.left && drag.y0 < margin.top + inner.height) ask(rungX(drag.x0), rungY(drag.y0));
                 setDrag(null);
               }}>
            <defs>
              <clipPath id={clip}><rect x={margin.left} y={margin.top} width={inner.width} height={inner.height} /></clipPath>
              <pattern id={`${clip}-no`} width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path class="hatch" d="M0 0V7" /></pattern>
              <pattern id={`${clip}-g`} width="8" height="8" patternUnits="userSpaceOnUse"><circle class="dots" cx="2" cy="2" r="1.1" /><circle class="dots" cx="6" cy="6" r="1.1" /></pattern>
            </defs>
            <rect class="ground" x={margin.left} y={margin.top} width={inner.width} height={inner.height} />
            <g clip-path={`url(#${clip})`}>
              <rect x={margin.left} y={margin.top} width={inner.width} height={inner.height} fill={`url(#${clip}-no)`} />
              <path class="fits" d={predicted.area} />
              <path class="proven" d={inside.area} />
              <path class="not" d={outside.area} />
              <path class="babble" d={garbage.area} /><path d={garbage.area} fill={`url(#${clip}-g)`} />
              {ticksX.map(({ floor, rung }) => <path key={floor} class="grid" d={`M${s.x(rung)} ${margin.top}V${margin.top + inner.height}`} />)}
              {ticksY.map(({ floor, rung }) => <path key={floor} class="grid" d={`M${margin.left} ${s.y(rung)}H${margin.left + inner.width}`} />)}
              <path class="edge fits-edge" d={predicted.edge} />
              <path class="edge proven-edge" d={inside.edge} />
              <path class="edge not-edge" d={outside.edge} />
              <path class="edge sense-edge" d={sensible.edge} />
              <path class="edge babble-edge" d={garbage.edge} />
            </g>
            <path class="axis" d={`M${margin.left} ${margin.top}V${margin.top + inner.height}H${margin.left + inner.width}`} />
            {ticksX.map(({ floor, rung }) => <text key={floor} class="tick" x={s.x(rung)} y={margin.top + inner.height + 17} text-anchor="middle">{f.floor(floor)}</text>)}
            {ticksY.map(({ floor, rung }) => <text key={floor} class="tick" x={margin.left - 8} y={s.y(rung) + 4} text-anchor="end">{f.floor(floor)}</text>)}
            <text class="title" x={margin.left + inner.width / 2} y={height - 8} text-anchor="middle">lazy floor (routed experts) →</text>
            <text class="title" transform={`translate(13 ${margin.top + inner.height / 2}) rotate(-90)`} text-anchor="middle">strict floor (attention, shared) →</text>
            <g clip-path={`url(#${clip})`}>
              {!small && shown.length <= 300 && <Names view={v} s={s} predicted={frontier.predicted_fit_frontier.map(at)} loaded={loaded.map(at)} outside={frontier.fit_frontier.outside.map(at)} garbage={frontier.garbage_frontier.garbage.map(at)} />}
              {asked && <path class="asked" d={`M${s.x(rungOf(ladder, asked.lazy))} ${margin.top}V${margin.top + inner.height}M${margin.left} ${s.y(rungOf(ladder, asked.strict))}H${margin.left + inner.width}`} />}
              {shown.map(({ t, x, y, look }) => (
                <a key={t.trial} class="point" href={`#/study/${study}/trial/${t.trial}`} data-trial={t.trial} data-look={look}
                   tabindex={t.trial === activeTrial ? 0 : -1}
                   aria-label={`Trial ${t.trial}, ${f.floors(t)}, ${SHAPES[look].label}: ${verdictText(t)}`}
                   onMouseEnter={() => setHover(t)} onMouseLeave={() => setHover(null)}
                   onFocus={() => { setHover(t); setActive(order.indexOf(t.trial)); }} onBlur={() => setHover(null)}>
                  <circle class="target" cx={s.x(x)} cy={s.y(y)} r={Math.max(9, size + 3)} />
                  <GlyphMark look={look} size={look === "recommended" ? size * 1.35 : size} x={s.x(x)} y={s.y(y)} />
                </a>
              ))}
            </g>
            {drag && <rect class="drag" x={Math.min(drag.x0, drag.x1)} y={Math.min(drag.y0, drag.y1)} width={Math.abs(drag.x1 - drag.x0)} height={Math.abs(drag.y1 - drag.y0)} />}
          </svg>
        )}
        {tip && <Tip trial={tip.t} rows={facts(tip.t)} x={s.x(tip.x)} y={s.y(tip.y)} width={width} />}
      </div>
      <ul class="legend areas">
        <li><span class="swatch fits" /> fits, by the plan</li>
        <li><span class="swatch proven" /> fitted when loaded, or below what did</li>
        {outside.edge && <li><span class="swatch not" /> did not fit, or above what did not</li>}
        {garbage.edge && <li><span class="swatch babble" /> garbage, by what was seen</li>}
        {frontier.garbage_frontier.sensible.length > 0 && <li><span class="swatch sense" /> sense from here up, by what was seen</li>}
        <li><span class="swatch none" /> does not fit, by the plan</li>
      </ul>
      <Legend looks={LOOKS.filter((look) => points.some((p) => p.look === look))} />
      {above.length > 0 && (
        <p class="why"><b>Right above the best point:</b> {above.map((p, i) => <span key={p.t.trial}>{i > 0 && "; "}<a href={`#/study/${study}/trial/${p.t.trial}`}>trial {p.t.trial}</a> at {f.floors(p.t)}, {verdictText({ ...p.t, verdict: { ...p.t.verdict, message: "" } })}</span>)}.</p>
      )}
      {asked && <Asked study={study} asked={asked} budget={frontier.budget_bytes} close={() => setAsked(null)} />}
      <AskForm ask={(strict, lazy) => setAsked({ strict, lazy })} />
      <AsTable label="The plane as tables">{() => (
        <>
          <DataTable caption="Trials on the plane" columns={trialColumns(study, recommended)} rows={points.map((p) => p.t).sort((a, b) => a.trial - b.trial)} keyOf={(t) => t.trial} />
          <DataTable caption="Predicted fit frontier: the largest floors that fit" keyOf={(p) => `${p.strict} ${p.lazy}`} rows={frontier.predicted_fit_frontier}
            columns={[{ head: "Strict", numeric: true, cell: (p) => f.floor(p.strict), sort: (p) => p.strict }, { head: "Lazy", numeric: true, cell: (p) => f.floor(p.lazy), sort: (p) => p.lazy },
              { head: "Needs", numeric: true, cell: (p) => f.bytes(p.needed_bytes), sort: (p) => p.needed_bytes }]} />
        </>
      )}</AsTable>
    </section>
  );
}

// What the areas are, written where there is room.
function Names({ view, s, predicted, loaded, outside, garbage }: { view: View; s: Scale; predicted: Corner[]; loaded: Corner[]; outside: Corner[]; garbage: Corner[] }) {
  const [left, right, top, bottom] = [s.x(view.x0), s.x(view.x1), s.y(view.y1), s.y(view.y0)];
  const [fits, proven, not, babble] = [corners(predicted, 1), corners(loaded, 1), corners(outside, -1), corners(garbage, 1)];
  const notFrom = not.length > 0 ? s.x(not[not.length - 1].x) : right;
  const names: { x: number; y: number; text: string; kind: string; anchor?: "middle" | "end" }[] = [];
  const last = proven[proven.length - 1];
  if (not.length > 0 && right - notFrom > 120) names.push({ x: (notFrom + right) / 2, y: top + 24, text: "did not fit", kind: "of-not", anchor: "middle" });
  if (fits.length > 0) {
    const from = s.x(fits[0].x);
    const under = proven.length > 0 ? s.y(proven[0].y) : bottom;
    const over = Math.max(top, s.y(fits[0].y));
    if (under - over > 40 && from - left > 120) names.push({ x: (left + Math.min(from, right)) / 2, y: over + 24, text: "fits, by the plan", kind: "of-fits", anchor: "middle" });
    if (notFrom - from > 190 && s.y(fits[0].y) - top > -6) names.push({ x: (from + notFrom) / 2, y: top + 24, anchor: "middle", text: "does not fit, by the plan", kind: "of-none" });
  }
  if (last && s.x(last.x) - left > 140 && bottom - s.y(last.y) > 60) names.push({ x: Math.min(right, s.x(last.x)) - 12, y: s.y(last.y) + 30, text: "fitted when loaded", kind: "of-proven", anchor: "end" });
  if (babble.length > 0) {
    const end = s.x(babble[babble.length - 1].x);
    if (end < right - 80) names.push({ x: end + 14, y: bottom - 8, text: "garbage", kind: "of-babble" });
  }
  return <>{names.filter((n) => n.x > left && n.x < right && n.y > top && n.y < bottom).map((n) => <text key={n.kind} class={`area ${n.kind}`} x={n.x} y={n.y} text-anchor={n.anchor ?? "start"} aria-hidden="true">{n.text}</text>)}</>;
}

const clamp = (rung: number, ladder: number[]) => Math.max(0, Math.min(ladder.length - 1, rung));

export function Tip({ trial, rows, x, y, width }: { trial: TrialRow; rows: [string, string][]; x: number; y: number; width: number }) {
  const wide = Math.min(290, width - 16);
  const left = Math.max(8, Math.min(width - wide - 8, x - wide / 2));
  return (
    <div class="tip" role="presentation" style={{ left: `${left}px`, top: `${y + 14}px`, width: `${wide}px` }}>
      <strong>Trial {trial.trial}</strong>
      <dl>{rows.map(([name, value]) => [<dt>{name}</dt>, <dd>{value}</dd>])}</dl>
    </div>
  );
}

// What a pair of floors would cost; of the rate table, without a load.
export function Asked({ study, asked, hasLazy = true, budget, close }: { study: number; asked: { strict: number; lazy: number }; hasLazy?: boolean; budget: number; close: () => void }) {
  const [plan, setPlan] = useState<PlanAnswer | null>(null);
  const [error, setError] = useState("");
  useEffect(() => {
    let wanted = true;
    setError("");
    get<PlanAnswer>(`studies/${study}/plan?strict=${asked.strict}&lazy=${asked.lazy}`)
      .then((p) => wanted && setPlan(p)).catch((e: Error) => wanted && setError(e.message));
    return () => { wanted = false; };
  }, [study, asked.strict, asked.lazy]);
  return (
    <p class="asked-answer" role="status">
      {error ? error : plan && <>
        {hasLazy ? <>Floors <b>({f.floor(asked.strict)}, {f.floor(asked.lazy)})</b></> : <>Floor <b>{f.floor(asked.strict)}</b></>} would take <b>{f.bytes(plan.predicted_bytes)}</b> in all,
        {" "}{f.bytes(plan.weight_bytes)} of it weights at {f.bits(plan.bits_per_weight)} bits:{" "}
        {plan.predicted_bytes <= budget ? `${f.bytes(budget - plan.predicted_bytes)} to spare.` : `${f.bytes(plan.predicted_bytes - budget)} too much.`}
      </>}
      <button type="button" class="quiet" onClick={close}>Close</button>
    </p>
  );
}

function AskForm({ ask }: { ask: (strict: number, lazy: number) => void }) {
  const [strict, setStrict] = useState("0.98");
  const [lazy, setLazy] = useState("0.93");
  const is = (text: string) => Number(text) > 0 && Number(text) <= 1;
  return (
    <form class="ask" onSubmit={(e) => { e.preventDefault(); if (is(strict) && is(lazy)) ask(Number(strict), Number(lazy)); }}>
      <span>What would floors cost?</span>
      <label>strict <input inputMode="decimal" size={7} value={strict} onInput={(e) => setStrict((e.target as HTMLInputElement).value)} /></label>
      <label>lazy <input inputMode="decimal" size={7} value={lazy} onInput={(e) => setLazy((e.target as HTMLInputElement).value)} /></label>
      <button type="submit" disabled={!is(strict) || !is(lazy)}>Ask the plan</button>
    </form>
  );
}
