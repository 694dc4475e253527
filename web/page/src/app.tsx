// The page: what is shown follows the part of the address behind the #.
import { render } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { get, listen, setToken, takeToken, type State } from "./api";
import { Comparing } from "./compare";
import { apply, emptyRun, inFlight, type Run } from "./run_state";
import { Start } from "./start";
import { Studies } from "./studies";
import { StudyPage } from "./study";
import { TrialPage } from "./trial";
import "uplot/dist/uPlot.min.css";
import "./style.css";

export interface Live {
  state: State | null;
  run: Run;
  version: number;  // grows when what is stored has changed
  refresh: () => void;
}

// What the path gives, read again whenever `version` grows; what was there stays until the new is.
export function useApi<T>(path: string | null, version: number): { data: T | null; error: string } {
  const [got, setGot] = useState<{ path: string; data: T } | null>(null);
  const [error, setError] = useState("");
  useEffect(() => {
    if (path === null) return;
    let wanted = true;
    get<T>(path).then((data) => { if (wanted) { setGot({ path, data }); setError(""); } })
      .catch((e: Error) => { if (wanted) setError(e.message); });
    return () => { wanted = false; };
  }, [path, version]);
  return { data: got && got.path === path ? got.data : null, error };
}

function useLive(): Live & { connected: boolean } {
  const [state, setState] = useState<State | null>(null);
  const [run, setRun] = useState<Run>(emptyRun);
  const [version, setVersion] = useState(0);
  const [connected, setConnected] = useState(true);
  const timer = useRef(0);
  const refresh = useCallback(() => {
    get<State>("state").then(setState).catch(() => undefined);
    setVersion((v) => v + 1);
  }, []);
  useEffect(() => {
    refresh();
    let current = emptyRun();
    let drawn = 0;
    void listen((events) => {
      let stale = false;
      for (const event of events) {
        if (["changed", "running", "reset", "study_start", "study_end", "trial_end", "run"].includes(event.type)) stale = true;
        else if (event.type !== "bye") current = apply(current, event);
        if (event.type === "run" || event.type === "running" || event.type === "study_start" || event.type === "study_end" || event.type === "trial_end") current = apply(current, event);
      }
      // Drawn at most four times a second, the last always.
      clearTimeout(drawn);
      drawn = setTimeout(() => setRun({ ...current }), 200) as unknown as number;
      if (stale && !timer.current) timer.current = setTimeout(() => { timer.current = 0; refresh(); }, 400) as unknown as number;
    }, setConnected);
  }, []);
  return { state, run, version, refresh, connected };
}

function useRoute(): string[] {
  const read = () => location.hash.replace(/^#\/?/, "").split("/").filter(Boolean);
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const changed = () => { takeToken(); setRoute(read()); window.scrollTo(0, 0); };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

function TokenForm({ refresh }: { refresh: () => void }) {
  const [token, set] = useState("");
  return (
    <form class="token" onSubmit={(e) => { e.preventDefault(); setToken(token); set(""); refresh(); }}>
      <label>To start or pause searches, paste the token that <code>hproc serve</code> printed
        <input type="password" autocomplete="off" value={token} onInput={(e) => set((e.target as HTMLInputElement).value)} /></label>
      <button type="submit" disabled={token.length < 8}>Use it</button>
    </form>
  );
}

function App() {
  const live = useLive();
  const route = useRoute();
  const [first, second, third, fourth, fifth] = route;
  const id = /^\d+$/.test(second ?? "") ? Number(second) : null;
  const number = (text: string | undefined) => (/^\d+$/.test(text ?? "") ? Number(text) : null);
  let page = <Studies live={live} />;
  if (first === "start") page = <Start live={live} />;
  if (first === "study" && id !== null) {
    if (third === "trial" && number(fourth) !== null) page = <TrialPage key={`${id}/${fourth}`} live={live} study={id} trial={number(fourth)!} />;
    else if (third === "compare") page = <Comparing live={live} study={id} a={number(fourth)} b={number(fifth)} />;
    else page = <StudyPage key={id} live={live} study={id} tab={third ?? "plane"} />;
  }
  useEffect(() => { document.title = first === "study" && id !== null ? `hproc – ${third ?? "study"} ${fourth ?? id}` : "hproc"; }, [first, second, third, fourth]);
  const { state, run } = live;
  return (
    <>
      <a class="skip" href="#main" onClick={(e) => { e.preventDefault(); document.getElementById("main")?.focus(); }}>To the content</a>
      <header class="top">
        <a class="logo" href="#/"><svg width="22" height="22" viewBox="0 0 16 16" aria-hidden="true"><path class="stair" d="M1 15V2h4v3h4v4h4v6z" /><circle class="dot" cx="9" cy="9" r="2.5" /></svg>hproc</a>
        <nav aria-label="Main"><a href="#/" aria-current={first === undefined ? "page" : undefined}>Studies</a><a href="#/start" aria-current={first === "start" ? "page" : undefined}>New search</a></nav>
        <p class="status" role="status">
          {!live.connected ? <span class="pill bad">connection lost, trying again</span>
            : state?.running ? <a class="pill on" href={run.studyId ? `#/study/${run.studyId}/live` : "#/"}><span class="beat" aria-hidden="true" /> {inFlight(run).length > 1 ? `${inFlight(run).length} trials run` : inFlight(run).length === 1 ? `trial ${inFlight(run)[0].trial!.number} runs` : "search runs"}</a>
              : <span class="pill">idle</span>}
        </p>
      </header>
      <main id="main" tabIndex={-1}>{page}</main>
      <footer class="foot">
        {state && !state.authorized && <TokenForm refresh={live.refresh} />}
        {state && <p>hproc {state.version}, study file <code>{state.db}</code>. <a href="/api/v1/openapi.json">API</a>, <a href="/metrics">metrics</a>.</p>}
      </footer>
    </>
  );
}

takeToken();
const root = document.getElementById("app")!;
root.textContent = "";
render(<App />, root);
