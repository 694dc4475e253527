// Numbers as people read them; the same everywhere.
import type { Accuracy, TrialRow } from "./api";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const sign = value < 0 ? "−" : "";
  let size = Math.abs(value);
  let unit = 0;
  while (size >= 1024 && unit < UNITS.length - 1) { size /= 1024; unit++; }
  return `${sign}${unit === 0 ? size : size.toFixed(size >= 100 ? 1 : 2)} ${UNITS[unit]}`;
}
export const count = (value: number) => value.toLocaleString("en-US");
export const floor = (value: number) => String(+value.toPrecision(6));
// Of a model without routed experts the lazy floor decides nothing.
export const floors = (t: { strict: number; lazy: number }, hasLazy: boolean | null = true) => (hasLazy === false ? floor(t.strict) : `(${floor(t.strict)}, ${floor(t.lazy)})`);
export const bits = (value: number | null) => (value === null ? "–" : value.toFixed(3));
export const percent = (value: number | null | undefined, digits = 1) =>
  value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`;
export const rate = (value: number | null | undefined) =>
  value === null || value === undefined ? "–" : `${value >= 100 ? Math.round(value).toLocaleString("en-US") : value.toFixed(1)} tok/s`;
const KINDS = { point: "point", baseline_16bit: "16 bits, as stored", baseline_int4: "INT4 g128", baseline_int4_pruned: "INT4, experts pruned" };
export const kind = (t: { kind: TrialRow["kind"] }) => KINDS[t.kind] ?? t.kind;
export const words = (name: string) => name.replaceAll("_", " ");

export function duration(seconds: number): string {
  if (!isFinite(seconds)) return "–";
  if (seconds < 0.1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
export function ago(utc: string, now = Date.now()): string {
  const seconds = (now - Date.parse(utc)) / 1000;
  return seconds < 60 ? "just now" : `${duration(seconds).split(" ").slice(0, 2).join(" ")} ago`;
}
// The time of day where the reader is.
export const clock = (utc: string) => new Date(utc).toLocaleTimeString("en-GB");
export function accuracy(a: Accuracy | null): string {
  if (!a) return "–";
  if (a.rate === null) return `stopped after ${a.answered}`;
  return `${percent(a.rate)} (${a.correct} of ${a.answered})`;
}
export const interval = (a: { low?: number; high?: number }) =>
  a.low === undefined || a.high === undefined ? "" : `${percent(a.low)} to ${percent(a.high)}`;
export const decode = (t: TrialRow) => t.throughput["long_decode"]?.mean_tok_per_s ?? null;
export const prefill = (t: TrialRow) => t.throughput["prefill"]?.mean_tok_per_s ?? null;
export const modelName = (path: string): string => {
  if (path.startsWith("synthetic:")) return `random weights of ${modelName(path.slice(10).replace(/\/config\.json$/, ""))}`;
  const parts = path.split("/").filter(Boolean);
  const last = parts[parts.length - 1] ?? path;
  return last === "model" && parts.length > 1 ? parts[parts.length - 2] : last;
};
