// Where an axis is marked, and with what.
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function niceStep(span: number, parts: number): number {
  const raw = span / parts;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= raw * (1 - 1e-9)) ?? raw;
}

// Round numbers of one unit, with the digits that tell them apart.
export function byteTicks(from: number, to: number, parts: number): { at: number; text: string }[] {
  let unit = 0;
  const most = Math.max(Math.abs(from), Math.abs(to));
  while (unit < UNITS.length - 1 && most >= 1024 ** (unit + 1)) unit++;
  const size = 1024 ** unit;
  const step = Math.max(unit === 0 ? 1 : 0, niceStep((to - from) / size, parts));
  const digits = Math.min(8, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const ticks: { at: number; text: string }[] = [];
  for (let n = Math.ceil(from / size / step - 1e-9); n * step * size <= to * (1 + 1e-12); n++) ticks.push({ at: n * step * size, text: `${(n * step).toFixed(digits).replace("-", "−")} ${UNITS[unit]}` });
  return ticks;
}
