// How a trial looks: a shape for each verdict, so that none is told by colour alone.
import type { TrialRow } from "./api";
import { bytes, words } from "./format";

export type Look = "recommended" | "answered" | "baseline" | "stopped" | "sensible" | "out_of_memory" | "garbage" | "failed" | "open";

interface Shape { path: string; filled: boolean; label: string }

// Each in a box from -1 to 1.
export const SHAPES: Record<Look, Shape> = {
  recommended: { path: "M0-1.5L.42-.48 1.45-.45 .65.22 .9 1.25 0 .66-.9 1.25-.65.22-1.45-.45-.42-.48Z", filled: true, label: "recommended" },
  answered: { path: "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1-1 0Z", filled: true, label: "all questions answered" },
  baseline: { path: "M0-1.25L1.25 0 0 1.25-1.25 0Z", filled: true, label: "baseline" },
  stopped: { path: "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1-1 0Z", filled: false, label: "stopped early" },
  sensible: { path: "M-.85-.85H.85V.85H-.85Z", filled: false, label: "loaded, or made sense" },
  out_of_memory: { path: "M-.9-.9L.9.9M.9-.9L-.9.9", filled: false, label: "out of memory" },
  garbage: { path: "M0-1.05L1.05.85H-1.05Z", filled: false, label: "garbage output" },
  failed: { path: "M0-1.1V.3M0 .8V1.15", filled: false, label: "failed: says nothing about the point" },
  open: { path: "M-1 0H-.4M.4 0H1M0-1V-.4M0 .4V1", filled: false, label: "waiting or running" },
};
export const LOOKS = Object.keys(SHAPES) as Look[];

const ASKED = new Set(["candidate", "lowest_fits", "walk_step", "grid_point"]);

export function lookOf(t: TrialRow, recommended: number | null): Look {
  if (t.trial === recommended) return "recommended";
  if (t.state === "complete") {
    if (t.kind !== "point") return "baseline";
    if (t.accuracy !== null || ASKED.has(t.purpose)) return t.accuracy?.all_questions ? "answered" : "stopped";
    return "sensible";
  }
  if (t.state === "infeasible") return t.verdict.reason === "out_of_memory" ? "out_of_memory" : "garbage";
  return t.state === "failed" ? "failed" : "open";
}

export function verdictText(t: TrialRow): string {
  if (t.state === "waiting" || t.state === "running") return t.state;
  if (t.state === "complete") {
    const a = t.accuracy;
    if (a?.all_questions) return `${a.correct} of ${a.answered} right`;
    return t.verdict.message || (a ? `stopped after ${a.answered} questions` : "loaded, made sense");
  }
  const short = t.verdict.short_bytes > 0 ? `, short ${bytes(t.verdict.short_bytes)}` : "";
  const where = t.verdict.phase ? ` at ${t.verdict.phase}` : "";
  return `${words(t.verdict.reason)}${where}${short}${t.verdict.message ? `: ${t.verdict.message}` : ""}`;
}

export function GlyphMark({ look, size, x = 0, y = 0 }: { look: Look; size: number; x?: number; y?: number }) {
  const shape = SHAPES[look];
  return (
    <path class={`glyph ${look}${shape.filled ? " filled" : ""}`} d={shape.path}
          transform={`translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${size})`} vector-effect="non-scaling-stroke" />
  );
}

export function GlyphIcon({ look, size = 14 }: { look: Look; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="-1.7 -1.7 3.4 3.4" aria-hidden="true"><GlyphMark look={look} size={1} /></svg>
  );
}

export function Legend({ looks }: { looks: Look[] }) {
  return <ul class="legend">{looks.map((look) => <li key={look}><GlyphIcon look={look} /> {SHAPES[look].label}</li>)}</ul>;
}
