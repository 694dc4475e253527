// What there is to take away: the operating point, the report, the raw rows.
import { useState } from "preact/hooks";
import { download, type Study, type TrialRow } from "./api";
import * as f from "./format";

export function Exports({ study, trials }: { study: Study; trials: TrialRow[] }) {
  const best = study.outcome?.recommended?.trial;
  const choices = trials.filter((t) => t.kind === "point" && t.state === "complete" && t.accuracy?.all_questions);
  const [chosen, setChosen] = useState<number | null>(null);
  const [error, setError] = useState("");
  const number = chosen ?? best ?? choices[0]?.trial;
  const save = (path: string, name: string) => { setError(""); download(`studies/${study.id}/${path}`, name).catch((e: Error) => setError(e.message)); };
  const name = study.study.replace(/[^A-Za-z0-9.-]/g, "_");
  return (
    <section class="exports" aria-label="Export">
      <div>
        <h2>Operating point</h2>
        <p>What a server consumes: floors and plan, with the evidence inside. <code>hproc verify operating_point.json</code> runs it again.</p>
        {choices.length === 0 ? <p class="empty">{study.model.startsWith("synthetic:") ? "Random weights make no operating point." : "No trial has answered all questions yet."}</p> : (
          <p class="controls">
            <label>Trial <select value={number} onChange={(e) => setChosen(Number((e.target as HTMLSelectElement).value))}>
              {choices.map((t) => <option key={t.trial} value={t.trial}>{t.trial}: {f.floors(t, study.has_lazy)}{t.accuracy ? `, ${f.accuracy(t.accuracy)}` : ""}{t.trial === best ? ", recommended" : ""}</option>)}
            </select></label>
            <button type="button" class="primary" onClick={() => save(`operating_point.json?trial=${number}`, "operating_point.json")}>operating_point.json</button>
          </p>
        )}
      </div>
      <div>
        <h2>Report</h2>
        <p>What the study found and how sure that is, as one page that needs nothing else.</p>
        <p class="controls"><button type="button" onClick={() => save("report.html", `${name}-report.html`)}>HTML</button><button type="button" onClick={() => save("report.md", `${name}-report.md`)}>Markdown</button></p>
      </div>
      <div>
        <h2>Trials</h2>
        <p>Every trial with its verdict and figures, one row each.</p>
        <p class="controls"><button type="button" onClick={() => save("trials.csv", `${name}-trials.csv`)}>CSV</button><button type="button" onClick={() => save("trials.json", `${name}-trials.json`)}>JSON</button></p>
      </div>
      {error && <p class="error" role="alert">{error}</p>}
    </section>
  );
}
