// The API's shapes (web/openapi.json), and how it is asked. Figures that were not measured are null.

export interface Verdict { reason: string; phase: string; device: string; short_bytes: number; message: string }
export interface Accuracy {
  answered: number; correct: number; flexible_correct: number; invalid: number; truncated: number; correct_by_seed: number[]; all_questions: boolean;
  rate: number | null; low?: number; high?: number; truncated_flag?: boolean;
}
export interface Rate { mean_tok_per_s: number | null; sd_tok_per_s: number | null; median_tok_per_s: number | null; repetitions: number; tokens: number; batch: number }
export interface TrialRow {
  trial: number; kind: "point" | "baseline_16bit" | "baseline_int4" | "baseline_int4_pruned"; purpose: string;
  state: "waiting" | "running" | "complete" | "infeasible" | "failed";
  strict: number; lazy: number; head: number; plan_digest: string; bits_per_weight: number | null;
  predicted_bytes: number; measured_bytes: number | null; peak_bytes: number | null; verdict: Verdict; attempts: number | Attempt[];
  accuracy: Accuracy | null; throughput: { [kind: string]: Rate }; created_utc: string; finished_utc: string;
}
export interface Attempt { number: number; started_utc: string; ended_utc: string; verdict: Verdict; log_path: string }
export interface LedgerLine { name: string; bytes: number }
export interface Ledger { device: string; live_bytes: number; peak_bytes: number; cap_bytes: number; lines: LedgerLine[] }
export interface TensorPlan {
  name: string; family: string; rows: number; columns: number; bytes: number; outliers?: number; floor?: number;
  min_cosine?: number; mean_deficit?: number; format?: { mode: string; levels: number };
}
export interface Answer {
  stage: string; question: number; seed: number; text: string; strict: string; flexible: string; strict_correct: boolean;
  flexible_correct: boolean; finish: string; prompt_tokens: number; generated_tokens: number;
}
export interface Trial extends TrialRow {
  plan: { tensors: TensorPlan[] } | null;
  measured: {
    load: { weight_bytes: number; bits_per_weight: number; seconds: number;
            families: { family: string; weights: number; bytes: number; min_cosine: number; mean_cosine: number }[] } | null;
    memory: Ledger | null;  // of several ranks the tightest device's
    ranks: Ledger[];  // empty where there is one
    predicted: LedgerLine[];
    phase_seconds: { phase: string; seconds: number }[];
  };
  attempts: Attempt[];
  answers: Answer[];
}
export interface Recommended {
  trial: number; strict: number; lazy: number; weight_bytes: number | null; predicted_bytes: number; measured_bytes: number | null;
  headroom_bytes: number | null; bits_per_weight: number; decode_tok_per_s: number | null; prefill_tok_per_s: number | null;
  accuracy: { correct: number; total: number; rate: number; low: number; high: number } | null;
}
export interface Baseline {
  kind: TrialRow["kind"]; trial: number; fits: boolean; weight_bytes: number | null; measured_bytes: number | null; accuracy: { correct: number; total: number; rate: number } | null;
  decode_tok_per_s: number | null; only_baseline_right: number; only_recommended_right: number; mcnemar_p: number | null;
}
export interface Outcome {
  recommended: Recommended | null; bound: string; why: string; fault: string | null; alarms: string[]; loads: number; trials: number;
  baselines: Baseline[]; int4_g128: { weight_bytes: number; total_bytes: number; fits: boolean };
}
export interface StudyRow {
  id: number; study: string; state: "running" | "interrupted" | "done"; model: string; memory_cap_bytes: number; context: number;
  batch: number; task: string; created_utc: string; trials: { [state: string]: number }; outcome: Outcome | null;
}
export interface Study extends StudyRow {
  has_lazy: boolean | null;
  spec: { headroom_bytes: number; mode: string; strategy: string; fingerprint: string; device_name: string; worker_version: string;
          deployment: { device: string; context: number; batch: number; kv_dtype: string; world_size: number };
          eval: { task_id: string; shots: number; limit: number; seeds: number; max_new_tokens: number }; min_accuracy: number;
          launch: { launcher: string; parallel: number } };
}
export interface Pair { strict: number; lazy: number; needed_bytes: number }
export interface At { trial: number; strict: number; lazy: number }
export interface Frontier {
  study: string; lowest: Pair; highest: Pair; window: { lowest: Pair; highest: Pair }; has_lazy: boolean; budget_bytes: number;
  predicted_fit_frontier: Pair[]; fit_frontier: { inside: At[]; outside: At[] };
  garbage_frontier: { sensible: At[]; garbage: At[] }; pareto_frontier: number[]; trials: TrialRow[]; outcome: Outcome | null;
}
export interface Comparison {
  first: TrialRow; second: TrialRow; questions: number; both_right: number; only_first_right: number; only_second_right: number;
  neither_right: number; mcnemar_p: number | null; differences: { question: number; seed: number; right: "first" | "second" }[];
}
export interface Question { question: number; text: string; answer: string }
export interface PlanAnswer {
  strict: number; lazy: number; weight_bytes: number; predicted_bytes: number; bits_per_weight: number;
  families: { [family: string]: { weights: number; bytes: number; bits_per_weight: number; min_cosine: number } };
}
export interface Forecast {
  budget_bytes: number; has_lazy: boolean; lowest: Pair; highest: Pair; predicted_fit_frontier: Pair[];
  stored_16bit: { total_bytes: number; fits: boolean }; int4_g128: { total_bytes: number; fits: boolean }; ledger_at_lowest: LedgerLine[];
}
export interface State {
  version: string; db: string; roots: string[]; authorized: boolean; running: boolean; holder: string | null; study_id: number | null;
  queue: { held: boolean; waiting: { id: number; what: string }[]; failed: string[] };
  run: { ours: boolean; command: string; exit_code: number | null; message: string };
}

// ---- the token: it comes behind the # of the address that hproc serve prints, and stays in this tab ----

const TOKEN_KEY = "hproc-token";

export function takeToken(): void {
  const match = /^#token=([\x21-\x7e]+)$/.exec(location.hash);
  if (!match) return;
  sessionStorage.setItem(TOKEN_KEY, match[1]);
  history.replaceState(null, "", "#/");
}
export function setToken(token: string): void { sessionStorage.setItem(TOKEN_KEY, token.trim()); }
function headers(): Record<string, string> {
  const token = sessionStorage.getItem(TOKEN_KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// ---- requests ----

export class Refused extends Error {
  constructor(readonly status: number, message: string) { super(message); }
}
async function answer<T>(response: Response): Promise<T> {
  const text = await response.text();
  let json: unknown = null;
  try { json = JSON.parse(text); } catch { /* said below */ }
  if (!response.ok) {
    const said = json && typeof json === "object" && "error" in json ? String((json as { error: unknown }).error) : response.statusText;
    throw new Refused(response.status, said);
  }
  return json as T;
}
export async function get<T>(path: string): Promise<T> {
  return answer<T>(await fetch(`/api/v1/${path}`, { headers: headers() }));
}
export async function getText(path: string): Promise<string> {
  const response = await fetch(`/api/v1/${path}`, { headers: headers() });
  if (!response.ok) return answer<string>(response);
  return response.text();
}
export async function post<T>(path: string, body: unknown = {}): Promise<T> {
  return answer<T>(await fetch(`/api/v1/${path}`, {
    method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify(body),
  }));
}
// Saves what the path gives as a file.
export async function download(path: string, name: string): Promise<void> {
  const response = await fetch(`/api/v1/${path}`, { headers: headers() });
  if (!response.ok) { await answer(response); return; }
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// ---- events ----

export interface LiveEvent { type: string; data: any }

// Calls `heard` with every event from the last run's beginning on, for as long as the page lives. A broken connection is taken
// up again behind the last event heard; EventSource would do that too, but cannot send the token.
export async function listen(heard: (events: LiveEvent[]) => void, connected: (is: boolean) => void): Promise<never> {
  let last = "";
  for (;;) {
    try {
      const response = await fetch(`/api/v1/events${last ? "" : "?since=run"}`, {
        headers: { ...headers(), Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) },
      });
      if (!response.ok || !response.body) throw new Error(response.statusText);
      connected(true);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        rest += value;
        const blocks = rest.split("\n\n");
        rest = blocks.pop() ?? "";
        const events: LiveEvent[] = [];
        for (const block of blocks) {
          const field = (name: string) => block.split("\n").find((line) => line.startsWith(name + ": "))?.slice(name.length + 2);
          last = field("id") ?? last;
          const type = field("event");
          if (type) events.push({ type, data: JSON.parse(field("data") ?? "{}") });
        }
        if (events.length > 0) heard(events);
      }
    } catch { /* tried again */ }
    connected(false);
    await new Promise((done) => setTimeout(done, 1500));
  }
}
