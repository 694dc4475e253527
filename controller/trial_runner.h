// TrialRunner: carries one trial through its phases, attempt by attempt, and writes down how it ended.
//
//   start attempt ─▶ load, cache, warmup ─▶ probes ─▶ questions ─▶ throughput ─▶ finish
//        ▲                 │ refused            │ garbage   │ clearly worse
//        │                 ▼                    ▼           ▼
//        │            infeasible           infeasible    complete, stopped early
//        └── crash, hang, timeout, killed: once more, on another machine where there are several; then failed
//
// A fresh process each attempt. Answers are stored in small batches as they come, so that an attempt cut short by a power
// cut goes on behind the last batch; everything else about a trial is stored in one transaction at its end.
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "controller/launcher.h"
#include "controller/search.h"
#include "controller/store.h"
#include "controller/tune_observer.h"
#include "controller/watchdog.h"
#include "controller/worker_group.h"
#include "evals/garbage.h"
#include "evals/gsm8k.h"

namespace hproc::controller {

struct WorkerSetup {
  std::filesystem::path executable;      // hproc-worker
  std::vector<std::string> arguments;    // before --events-fd: "session"
  std::filesystem::path log_folder;      // a log file an attempt
  Deadlines deadlines;
  std::shared_ptr<const Launcher> launcher;  // none: processes of this machine
  // What of the machine its trials get, where several are in flight (controller/device_share.h); none: all the study has.
  std::optional<worker::Deployment> share;
  // Free on the device with nothing of ours on it, as the measure job saw it; 0: not known. A trial waits so long for what
  // it may use to be free again, see worker/idle_gate.h.
  int64_t idle_free_bytes = 0;
  std::vector<int64_t> idle_free_by_rank;  // where there are several, each rank's device
  double idle_wait_seconds = 120;
};

// The questions of a study. Immutable; outlives its users.
struct StudyQuestions {
  evals::Gsm8kTask task;
  std::vector<int> order;  // in which every trial meets them; cut to the limit
  std::vector<evals::Probe> probes;
};

struct TrialRun {
  Trial trial;  // waiting or running
  Depth depth = Depth::kLoad;
  int64_t memory_cap_bytes = 0;  // 0: what the machine has
  int64_t needed_free_bytes = 0;  // worker/idle_gate.h
  std::vector<int64_t> needed_free_by_rank;  // in its place, where there are several ranks
  std::vector<worker::LedgerLine> predicted;       // of the whole ledger
  // Of the garbage rules, by the study's reference. None: whatever the study has by the time of the probes, and if it has
  // none this trial becomes the reference.
  std::optional<evals::GarbageCalibration> calibration;
  std::vector<Answer> incumbent;                   // to compare with; empty: nobody
};

struct TrialRunResult {
  Trial trial;               // as stored; still running where interrupted
  bool interrupted = false;
};

// As the store has it; none: not set yet.
Result<std::optional<evals::GarbageCalibration>> CalibrationOf(Store& store, const StudySpec& spec);

// Fills in the nodes that the next attempt at `trial` is better made elsewhere than on: where one failed before, and where
// another of the study's `trials` met a fault that it did not meet elsewhere, unless one that began later was completed there.
void AvoidFailedNodes(const Trial& trial, const std::vector<Trial>& trials, LaunchRequest* request);

// Thread-compatible, but for Stop. Several runners may work on one store.
class TrialRunner {
 public:
  // All outlive the runner. `observer` is not null.
  TrialRunner(Store& store, const StudySpec& spec, const StudyQuestions& questions, WorkerSetup setup,
              TuneObserver* observer);

  // An error is one of the store or of the machine (no process can be started): the study cannot go on.
  Result<TrialRunResult> Run(TrialRun run);

  // Ends the run in progress as interrupted, now or at the next chance. Thread-safe, async-signal-unsafe.
  void Stop();

 private:
  struct Attempt;
  worker::Deployment DeploymentFor(const Trial& trial) const;

  Store& store_;
  const StudySpec& spec_;
  const StudyQuestions& questions_;
  WorkerSetup setup_;
  TuneObserver* observer_;
  std::optional<int64_t> reference_trial_;  // the study's, if it was this runner's
  std::mutex mutex_;               // guards current_
  WorkerGroup* current_ = nullptr;
  std::atomic<bool> stopped_{false};
};

}  // namespace hproc::controller
