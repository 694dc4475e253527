// Tuner: drives one study from its first measurement to its recommendation, and again from wherever it was cut off.
//
// What it knows it reads from the store, what it decides NextStep decides (controller/search.h), what it runs a TrialRunner
// runs; between two steps there is nothing in memory that the store does not have.
//
//   the thread of Run: asks, starts, waits ──▶ slot 0: TrialRunner, a thread for each trial ──▶ worker
//                                          ──▶ slot 1: …                                       LaunchSpec::parallel slots
//
// Interrupted with several trials in flight, all of them are gone on with before anything new is begun.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "controller/outcome_json.h"
#include "controller/plan_space.h"
#include "controller/search.h"
#include "controller/store.h"
#include "controller/trial_runner.h"
#include "controller/tune_observer.h"

namespace hproc::controller {

// The rate table pass of a checkpoint under a deployment.
struct Measured {
  worker::MeasureResult result;
  std::string worker_version;
  std::string device_name;
};

// Runs the measure job of one worker: the rate table ends up in `table_folder`, where it is found again by fingerprint.
class MeasureRun {
 public:
  MeasureRun(WorkerSetup setup, TuneObserver* observer) : setup_(std::move(setup)), observer_(observer) {}

  // `mode`: whose rates are needed, as in StudySpec. An error is a verdict on the run in one line: the checkpoint is bad, the
  // worker cannot be started.
  Result<Measured> Run(const std::string& model_dir, const std::filesystem::path& table_folder,
                       const worker::Deployment& deployment, const std::string& mode);
  void Stop();
  bool stopped() const { return stopped_; }

 private:
  WorkerSetup setup_;
  TuneObserver* observer_;
  std::mutex mutex_;
  WorkerClient* current_ = nullptr;
  std::atomic<bool> stopped_{false};
};

// The plane of a study from its measured table; the file is read and checked.
Result<std::unique_ptr<PlanSpace>> LoadPlanSpace(const worker::MeasureResult& measured, const std::string& mode,
                                                 double head_floor);
// What the measurement of a study gave. An error where it was not measured yet.
Result<worker::MeasureResult> MeasuredOf(const Study& study);
// The plane of a study that was measured; its rate table is read again.
Result<std::unique_ptr<PlanSpace>> SpaceOf(const Study& study);

// Reads the questions that a protocol asks for and checks them against its digests, where those are set.
Result<StudyQuestions> LoadQuestions(const EvalProtocol& protocol);

// What the search is told of a study: its spec, and its points that are finished; with kPassed those in flight too.
// Baselines are none of its business.
enum class InFlight { kLeftOut, kPassed };
SearchSpec SearchSpecOf(const StudySpec& spec, const PlanSpace& space);
std::vector<TrialFact> FactsOf(const std::vector<Trial>& trials, const PlanSpace& space,
                               InFlight in_flight = InFlight::kLeftOut);

// What `done` comes to beside the baselines; errors are the store's.
Result<StudyOutcome> OutcomeOf(Store& store, const StudySpec& spec, const PlanSpace& space,
                               const std::vector<Trial>& trials, const SearchDone& done);

struct TuneEnd {
  bool interrupted = false;
  StudyOutcome outcome;
  std::string outcome_json;  // what `tune --json` prints
};

class Tuner {
 public:
  // All outlive the tuner.
  Tuner(Store& store, const Study& study, const PlanSpace& space, const StudyQuestions& questions,
        WorkerSetup setup, TuneObserver* observer);
  ~Tuner();

  // Until the search is done or Stop was called. An error is one of the store or the machine; the study can be resumed.
  // Once.
  Result<TuneEnd> Run();

  // Thread-safe.
  void Stop();

 private:
  // Room for one trial in flight. Of the thread of Run, but for the runner's Stop.
  struct Slot {
    std::unique_ptr<TrialRunner> runner;
    std::optional<int64_t> trial_id;  // none: free
    std::jthread thread;
  };
  struct Ended {
    Slot* slot;
    Result<TrialRunResult> result;
  };
  // Both empty: nothing can be begun before a trial in flight has ended, or ever, where Stop was called.
  struct Next {
    std::optional<TrialRun> run;
    std::optional<SearchDone> done;  // with trials in flight only where nothing they find could be believed
  };

  Result<Next> Ask();
  void Start(Slot& slot, TrialRun run);
  Result<TrialRunResult> AwaitEnd();  // of any trial in flight, whose slot is free then
  void StopRunners();

  Result<Trial> AddTrial(TrialKind kind, const PlannedPoint& point, std::string_view purpose);
  // The first baseline asked for that has no trial yet, as a new trial; none when all have one that can have one.
  Result<std::optional<Trial>> NextBaseline(const std::vector<Trial>& trials, std::optional<int> recommended);
  std::optional<PlannedPoint> PlanOf(TrialKind baseline, const std::vector<Trial>& trials,
                                     std::optional<int> recommended) const;
  Result<TrialRun> Prepare(Trial trial, std::optional<int> incumbent, const std::vector<Trial>& trials);
  Result<TuneEnd> Finish(const SearchDone& done);

  Store& store_;
  const Study& study_;
  const PlanSpace& space_;
  TuneObservers observer_;  // one call at a time
  int64_t idle_free_bytes_;
  std::vector<int64_t> idle_free_by_rank_;
  std::atomic<bool> stopped_{false};

  std::mutex mutex_;  // guards ended_
  std::condition_variable has_ended_;
  std::deque<Ended> ended_;
  std::vector<Slot> slots_;  // last: its threads use the rest. Not resized
};

}  // namespace hproc::controller
