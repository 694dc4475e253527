// The one floor of a model without routed experts: strict to the right in rungs of the ladder, and up the bytes that the plan
// needs there, against the cap. Bands and glyphs are the plane's.
import { useMemo, useRef, useState } from "preact/hooks";
import type { Frontier, TrialRow } from "./api";
import * as f from "./format";
import { GlyphMark, Legend, lookOf, LOOKS, SHAPES, verdictText } from "./glyphs";
import { Asked, facts, rungOf, ticksBetween, Tip, useWidth } from "./plane";
import { byteTicks } from "./scales";
import { AsTable, DataTable } from "./tables";
import { trialColumns } from "./trials";
import { ZoomButtons } from "./zoom";

const capLabelWidth = 150;  // pixels, about, with its margin

export function FloorLine({ study, frontier, ladder, recommended }:
    { study: number; frontier: Frontier; ladder: number[]; recommended: number | null }) {
  const [box, width] = useWidth();
  const [hover, setHover] = useState<TrialRow | null>(null);
  const [active, setActive] = useState(0);
  const [asked, setAsked] = useState<number | null>(null);  // a floor
  const [view, setView] = useState<{ x0: number; x1: number } | null>(null);
  const svg = useRef<SVGSVGElement | null>(null);
  const points = useMemo(() => frontier.trials.filter((t) => t.kind === "point").map((t) => ({ t, x: rungOf(ladder, t.strict), look: lookOf(t, recommended) }))
    .sort((a, b) => a.x - b.x || a.t.trial - b.t.trial), [frontier, ladder, recommended]);
  const whole = useMemo(() => {
    const [low, high] = [rungOf(ladder, frontier.window.lowest.strict), rungOf(ladder, frontier.window.highest.strict)];
    return { x0: low - Math.max(2, (high - low) * 0.03), x1: Math.max(high, low + 8) };
  }, [frontier.window.lowest.strict, frontier.window.highest.strict, ladder]);
  const v = view ?? whole;
  const shown = points.filter((p) => p.x >= v.x0 && p.x <= v.x1);
  const height = Math.round(Math.max(280, Math.min(width * 0.42, 420)));
  const margin = { left: 76, right: 26, top: 16, bottom: 48 };
  const [bottom, right] = [height - margin.bottom, width - margin.right];
  const cap = frontier.budget_bytes;
  const ends = [frontier.lowest, frontier.highest, ...frontier.predicted_fit_frontier].map((p) => ({ x: rungOf(ladder, p.strict), needed: p.needed_bytes }));
  // What is known of the curve: the plan's ends and corner, and every trial.
  const curve = [...ends, ...points.map((p) => ({ x: p.x, needed: p.t.predicted_bytes }))].sort((a, b) => a.x - b.x);
  const needs = [...shown.map((p) => p.t.predicted_bytes), ...curve.filter((p) => p.x >= v.x0 && p.x <= v.x1).map((p) => p.needed), cap];
  const [least, most] = [Math.min(...needs), Math.max(...needs)];
  const pad = Math.max((most - least) * 0.1, most * 0.002);
  const y = { from: Math.max(0, least - pad), to: most + pad };
  const sx = (rung: number) => margin.left + ((rung - v.x0) / (v.x1 - v.x0)) * (right - margin.left);
  const sy = (bytes: number) => bottom - ((bytes - y.from) / (y.to - y.from)) * (bottom - margin.top);
  const rungAt = (pixel: number) => Math.round(v.x0 + ((pixel - margin.left) / (right - margin.left)) * (v.x1 - v.x0));

  const highest = (rungs: number[]) => (rungs.length > 0 ? Math.max(...rungs) : null);
  const of = (list: { strict: number }[]) => list.map((p) => rungOf(ladder, p.strict));
  const fits = highest(of(frontier.predicted_fit_frontier));
  const proven = highest(points.filter((p) => p.t.state === "complete" || p.t.verdict.reason === "garbage_output").map((p) => p.x));
  const tooHigh = of(frontier.fit_frontier.outside);
  const not = tooHigh.length > 0 ? Math.min(...tooHigh) : null;
  const babble = highest(of(frontier.garbage_frontier.garbage));
  const clip = `line-clip-${study}`;
  const band = (kind: string, from: number, to: number, fill?: string) => (to > from
    ? <rect class={kind} x={sx(from)} y={margin.top} width={sx(to) - sx(from)} height={bottom - margin.top} fill={fill} /> : null);
  const edge = (kind: string, rung: number | null) => rung !== null && <path class={`edge ${kind}`} d={`M${sx(rung)} ${margin.top}V${bottom}`} />;

  const focusTrial = (index: number) => {
    const next = Math.max(0, Math.min(points.length - 1, index));
    setActive(next);
    if (points[next].x < v.x0 || points[next].x > v.x1) setView(null);
    requestAnimationFrame(() => svg.current?.querySelector<SVGAElement>(`[data-trial="${points[next].t.trial}"]`)?.focus());
  };
  const zoom = (factor: number) => {
    const here = hover ? rungOf(ladder, hover.strict) : points.find((p) => p.look === "recommended")?.x ?? (v.x0 + v.x1) / 2;
    const next = { x0: here - (here - v.x0) * factor, x1: here + (v.x1 - here) * factor };
    if (next.x1 - next.x0 >= whole.x1 - whole.x0) setView(null);
    else if (next.x1 - next.x0 >= 4) setView(next);
  };
  const keys = (event: KeyboardEvent) => {
    const moves: Record<string, () => void> = {
      ArrowRight: () => focusTrial(active + 1), ArrowUp: () => focusTrial(active + 1), ArrowLeft: () => focusTrial(active - 1), ArrowDown: () => focusTrial(active - 1),
      Home: () => focusTrial(0), End: () => focusTrial(points.length - 1), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "0": () => setView(null),
    };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey || points.length === 0) return;
    event.preventDefault();
    move();
  };
  const tip = hover ? points.find((p) => p.t.trial === hover.trial) : undefined;
  const ticks = ticksBetween(ladder, v.x0, v.x1, sx, 48);
  const bytes = byteTicks(y.from, y.to, 5);
  return (
    <section class="plane line" aria-label="The floor">
      <div class="bar">
        <p class="hint">This model has no routed experts, so one floor decides. Press a trial to open it, a free place to see what it would cost.</p>
        <ZoomButtons step={0.6} zoom={zoom} whole={view && (() => setView(null))} />
      </div>
      <div class="plot" ref={box}>
        {width > 0 && (
          <svg ref={svg} width={width} height={height} role="group" onKeyDown={keys}
               aria-label={`Floor against bytes: ${points.length} trials; arrows go from trial to trial, enter opens one`}
               onClick={(e) => {
                 const rect = (e.currentTarget as Element).getBoundingClientRect();
                 const at = e.clientX - rect.left;
                 if (!(e.target as Element).closest("a") && at > margin.left && e.clientY - rect.top < bottom) setAsked(ladder[Math.max(0, Math.min(ladder.length - 1, rungAt(at)))]);
               }}>
            <defs>
              <clipPath id={clip}><rect x={margin.left} y={margin.top} width={Math.max(0, right - margin.left)} height={bottom - margin.top} /></clipPath>
              <pattern id={`${clip}-no`} width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path class="hatch" d="M0 0V7" /></pattern>
              <pattern id={`${clip}-g`} width="8" height="8" patternUnits="userSpaceOnUse"><circle class="dots" cx="2" cy="2" r="1.1" /><circle class="dots" cx="6" cy="6" r="1.1" /></pattern>
            </defs>
            <g clip-path={`url(#${clip})`}>
              {band("", v.x0, v.x1, `url(#${clip}-no)`)}
              {fits !== null && band("fits", v.x0, fits)}
              {proven !== null && band("proven", v.x0, proven)}
              {not !== null && band("not", not, v.x1)}
              {babble !== null && <>{band("babble", v.x0, babble)}{band("", v.x0, babble, `url(#${clip}-g)`)}</>}
              {ticks.map(({ rung }) => <path key={rung} class="grid" d={`M${sx(rung)} ${margin.top}V${bottom}`} />)}
              {bytes.map(({ at }) => <path key={at} class="grid" d={`M${margin.left} ${sy(at)}H${right}`} />)}
              {edge("fits-edge", fits)}{edge("proven-edge", proven)}{edge("not-edge", not)}{edge("babble-edge", babble)}
              <path class="curve" d={curve.map((p, i) => `${i ? "L" : "M"}${sx(p.x).toFixed(1)} ${sy(p.needed).toFixed(1)}`).join("")} />
              <path class="cap" d={`M${margin.left} ${sy(cap)}H${right}`} />
              {asked !== null && <path class="asked" d={`M${sx(rungOf(ladder, asked))} ${margin.top}V${bottom}`} />}
            </g>
            <text class="cap-label" x={Math.max(margin.left, Math.min(babble !== null ? sx(babble) : margin.left, right - capLabelWidth)) + 8} y={sy(cap) - 6}>what a point may hold</text>
            <path class="axis" d={`M${margin.left} ${margin.top}V${bottom}H${right}`} />
            {ticks.map(({ floor, rung }) => <text key={rung} class="tick" x={sx(rung)} y={bottom + 17} text-anchor="middle">{f.floor(floor)}</text>)}
            {bytes.map(({ at, text }) => <text key={at} class="tick" x={margin.left - 8} y={sy(at) + 4} text-anchor="end">{text}</text>)}
            <text class="title" x={(margin.left + right) / 2} y={height - 8} text-anchor="middle">strict floor →</text>
            <text class="title" transform={`translate(13 ${(margin.top + bottom) / 2}) rotate(-90)`} text-anchor="middle">predicted bytes →</text>
            <g clip-path={`url(#${clip})`}>
              {[...shown].sort((a, b) => LOOKS.indexOf(b.look) - LOOKS.indexOf(a.look)).map(({ t, x, look }) => (
                <a key={t.trial} class="point" href={`#/study/${study}/trial/${t.trial}`} data-trial={t.trial} data-look={look}
                   tabindex={points[Math.min(active, points.length - 1)].t.trial === t.trial ? 0 : -1}
                   aria-label={`Trial ${t.trial}, floor ${f.floor(t.strict)}, ${SHAPES[look].label}: ${verdictText(t)}`}
                   onMouseEnter={() => setHover(t)} onMouseLeave={() => setHover(null)}
                   onFocus={() => { setHover(t); setActive(points.findIndex((p) => p.t.trial === t.trial)); }} onBlur={() => setHover(null)}>
                  <circle class="target" cx={sx(x)} cy={sy(t.predicted_bytes)} r={10} />
                  <GlyphMark look={look} size={look === "recommended" ? 8.5 : 6.5} x={sx(x)} y={sy(t.predicted_bytes)} />
                </a>
              ))}
            </g>
          </svg>
        )}
        {tip && <Tip rows={facts(tip.t, false)} trial={tip.t} x={sx(tip.x)} y={sy(tip.t.predicted_bytes)} width={width} />}
      </div>
      <ul class="legend areas">
        <li><span class="swatch fits" /> fits, by the plan</li>
        <li><span class="swatch proven" /> fitted when loaded, or below what did</li>
        {not !== null && <li><span class="swatch not" /> did not fit, or above what did not</li>}
        {babble !== null && <li><span class="swatch babble" /> garbage, by what was seen</li>}
        <li><span class="swatch none" /> does not fit, by the plan</li>
      </ul>
      <Legend looks={LOOKS.filter((look) => points.some((p) => p.look === look))} />
      {asked !== null && <Asked study={study} asked={{ strict: asked, lazy: frontier.highest.lazy }} hasLazy={false} budget={cap} close={() => setAsked(null)} />}
      <AskFloor ask={setAsked} />
      <AsTable label="The line as a table">{() => (
        <DataTable caption="Trials by the strict floor" columns={trialColumns(study, recommended, false)} keyOf={(t) => t.trial} rows={points.map((p) => p.t).reverse()} />
      )}</AsTable>
    </section>
  );
}

function AskFloor({ ask }: { ask: (strict: number) => void }) {
  const [strict, setStrict] = useState("0.98");
  const is = Number(strict) > 0 && Number(strict) <= 1;
  return (
    <form class="ask" onSubmit={(e) => { e.preventDefault(); if (is) ask(Number(strict)); }}>
      <span>What would a floor cost?</span>
      <label>strict <input inputMode="decimal" size={7} value={strict} onInput={(e) => setStrict((e.target as HTMLInputElement).value)} /></label>
      <button type="submit" disabled={!is}>Ask the plan</button>
    </form>
  );
}
