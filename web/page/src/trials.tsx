// All trials of a study, as a table that can be narrowed, sorted and jumped into.
import { useMemo, useState } from "preact/hooks";
import type { TrialRow } from "./api";
import * as f from "./format";
import { GlyphIcon, lookOf, verdictText } from "./glyphs";
import { DataTable, type Column } from "./tables";

export function trialColumns(study: number, recommended: number | null, hasLazy = true): Column<TrialRow>[] {
  return [
    { head: "Trial", sort: (t) => t.trial, cell: (t) => <span class="numbered"><GlyphIcon look={lookOf(t, recommended)} /><a href={`#/study/${study}/trial/${t.trial}`}>{t.trial}</a></span> },
    { head: "Purpose", sort: (t) => t.purpose, cell: (t) => <span class="whole">{t.kind === "point" ? f.words(t.purpose) : f.kind(t)}</span> },
    { head: "Strict", numeric: true, sort: (t) => t.strict, cell: (t) => (t.kind === "point" ? f.floor(t.strict) : "–") },
    ...(hasLazy ? [{ head: "Lazy", numeric: true, sort: (t) => t.lazy, cell: (t) => (t.kind === "point" ? f.floor(t.lazy) : "–") } as Column<TrialRow>] : []),
    { head: "Bits", numeric: true, sort: (t) => t.bits_per_weight ?? 0, cell: (t) => f.bits(t.bits_per_weight) },
    { head: "Predicted", numeric: true, sort: (t) => t.predicted_bytes, cell: (t) => f.bytes(t.predicted_bytes) },
    { head: "Measured", numeric: true, sort: (t) => t.measured_bytes ?? 0, cell: (t) => (t.state === "complete" ? f.bytes(t.measured_bytes) : "–") },
    { head: "Accuracy", numeric: true, sort: (t) => t.accuracy?.rate ?? -1, cell: (t) => f.accuracy(t.accuracy) },
    { head: "Decode", numeric: true, sort: (t) => f.decode(t) ?? -1, cell: (t) => f.rate(f.decode(t)) },
    { head: "Verdict", sort: (t) => t.verdict.reason, cell: (t) => <span class="verdict" title={verdictText(t)}>{verdictText(t)}</span> },
  ];
}

export function Trials({ study, trials, recommended, hasLazy }: { study: number; trials: TrialRow[]; recommended: number | null; hasLazy: boolean }) {
  const [wanted, setWanted] = useState("");
  const [number, setNumber] = useState("");
  const kinds = useMemo(() => [...new Set(trials.map((t) => (t.state === "infeasible" || t.state === "failed" ? t.verdict.reason : t.state)))].sort(), [trials]);
  const shown = trials.filter((t) => !wanted || t.state === wanted || t.verdict.reason === wanted);
  const go = (event: Event) => {
    event.preventDefault();
    if (/^\d+$/.test(number) && Number(number) < trials.length) location.hash = `#/study/${study}/trial/${Number(number)}`;
  };
  return (
    <div>
      <div class="bar">
        <label>Show <select value={wanted} onChange={(e) => setWanted((e.target as HTMLSelectElement).value)}>
          <option value="">all {trials.length}</option>
          {kinds.map((kind) => <option key={kind} value={kind}>{f.words(kind)}</option>)}
        </select></label>
        <form onSubmit={go}><label>Go to trial <input inputMode="numeric" size={5} value={number}
          onInput={(e) => setNumber((e.target as HTMLInputElement).value)} /></label> <button type="submit">Open</button></form>
      </div>
      <DataTable caption="Trials" onlyShown columns={trialColumns(study, recommended, hasLazy)} rows={shown} keyOf={(t) => t.trial} />
    </div>
  );
}
