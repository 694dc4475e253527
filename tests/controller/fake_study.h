// A study of a model that fake_worker plays (tests/fake/model.h): small, quick, and known
// completely, so that a test can say beforehand what a search has to find.
//
// The model has two strict and two lazy matrices, a head and two kept tensors, with the rates of
// Gaussian weights: a K holds floors up to its cosine without outliers, and some way up with them.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "controller/plan_space.h"
#include "controller/store.h"
#include "controller/trial_runner.h"
#include "controller/tuner.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {

// Fingerprint "fake-fingerprint". Without lazy tensors it is the table of a dense model.
quant::RateTable FakeTable(bool has_lazy = true);

inline constexpr int64_t kFakeCacheBytes = 8192;  // 64 a token, 128 tokens
inline constexpr int64_t kFakeActivationBytes = 30'000;

// Accuracy falls with both floors, faster with the strict one.
inline const nlohmann::json kSloping = {{"accuracy", 0.95}, {"strict_slope", 6}, {"lazy_slope", 2}};

struct FakeModel {
  int questions = 40;
  bool has_lazy = true;
  // Laid over the model's settings: accuracy, slopes, garbage_below, hidden_bytes, ….
  nlohmann::json settings = nlohmann::json::object();
  // The steps of the script that go wrong.
  nlohmann::json script = nlohmann::json::object();
};

class FakeStudy {
 public:
  explicit FakeStudy(FakeModel model = {});

  // From the next process on.
  void SetScript(const nlohmann::json& steps);
  void SetModel(const nlohmann::json& settings);

  const std::string& model_dir() const { return spec.model_dir; }
  std::string tasks_path() const { return folder_ / "tasks.jsonl"; }
  // A file of this study's folder: markers of "once", logs.
  std::string File(const std::string& name) const { return folder_ / name; }

  const PlanSpace& space() const { return *space_; }
  const StudyQuestions& questions() const { return *questions_; }
  WorkerSetup setup() const;

  // Everything at the pair that the worker will hold, what it does not predict included.
  int64_t TrueBytes(FloorPair at) const;
  NewTrial PlanOf(FloorPair at, Purpose purpose) const;

  // May be changed until a store has it.
  StudySpec spec;
  worker::MeasureResult measured;

 private:
  void WriteScript() const;

  TestFolder folder_;
  FakeModel model_;
  std::unique_ptr<PlanSpace> space_;
  std::optional<StudyQuestions> questions_;
};

// What of the trials must not depend on how often their study was cut off.
std::vector<std::string> Substance(const std::vector<Trial>& trials);

// Notes what happened and may act on it.
class RecordingObserver : public TuneObserver {
 public:
  void OnTrialStart(const Trial& trial, int attempt) override;
  void OnQuestions(int trial, int answered, int questions, int correct) override;
  void OnAttemptEnd(const Trial& trial, int attempt, const Verdict& verdict, bool again) override;
  void OnTrialEnd(const Trial& trial) override;

  std::vector<std::pair<int, int>> starts;               // trial, attempt
  std::vector<std::pair<Reason, bool>> failed_attempts;  // why, whether there is another
  std::vector<int> ends;
  int questions_heard = 0;
  std::function<void(const Trial&)> at_start = [](const Trial&) {};
  std::function<void(int answered)> at_question = [](int) {};
  std::function<void(const Trial&)> at_trial_end = [](const Trial&) {};
  std::function<void()> at_attempt_end = [] {};
};

// A study in a store of its own, run by one tuner after the other.
class WholeStudy {
 public:
  explicit WholeStudy(const FakeStudy& fake) : fake_(fake) {
    study_ = *store->CreateStudy(fake.spec);
  }

  TuneEnd Run() {
    Result<TuneEnd> end = TryRun();
    EXPECT_TRUE(end.ok()) << ErrorOf(end);
    return *std::move(end);
  }
  Result<TuneEnd> TryRun() {
    tuner_.emplace(*store, study_, fake_.space(), fake_.questions(), fake_.setup(),
                   &observer);
    return tuner_->Run();
  }
  void Stop() { tuner_->Stop(); }

  std::vector<Trial> Trials() { return *store->ListTrials(study_.id); }
  Study Stored() { return **store->FindStudy(fake_.spec.name); }

  std::unique_ptr<Store> store = MakeMemoryStore(TickingClock());
  RecordingObserver observer;

 private:
  const FakeStudy& fake_;
  Study study_;
  std::optional<Tuner> tuner_;
};

}  // namespace hproc::controller
