// The store without a file: the rules of store_rules.h over vectors.

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "controller/store.h"
#include "controller/store_rules.h"

namespace hproc::controller {
namespace {

class MemoryStore final : public Store {
 public:
  explicit MemoryStore(Clock clock) : clock_(std::move(clock)) {}

  Result<Study> CreateStudy(const StudySpec& spec) override {
    const std::scoped_lock hold(mutex_);
    if (Result<void> allowed = CheckStudySpec(spec); !allowed) return allowed.error();
    for (const Study& study : studies_) {
      if (study.spec.name == spec.name) return StudyExists(spec.name);
    }
    Study study;
    study.id = static_cast<int64_t>(studies_.size()) + 1;
    study.spec = spec;
    study.created_utc = NowUtc();
    studies_.push_back(study);
    return study;
  }

  Result<std::optional<Study>> FindStudy(std::string_view name) override {
    const std::scoped_lock hold(mutex_);
    for (const Study& study : studies_) {
      if (study.spec.name == name) return std::optional<Study>(study);
    }
    return std::optional<Study>();
  }

  Result<std::vector<Study>> ListStudies() override {
    const std::scoped_lock hold(mutex_);
    return studies_;
  }

  Result<void> SetStudyState(int64_t study_id, StudyState state) override {
    const std::scoped_lock hold(mutex_);
    Study* study = At(studies_, study_id);
    if (study == nullptr) return NoSuchStudy(study_id);
    study->state = state;
    return Ok();
  }

  Result<void> SetStudyOutcome(int64_t study_id, const std::string& outcome_json) override {
    const std::scoped_lock hold(mutex_);
    Study* study = At(studies_, study_id);
    if (study == nullptr) return NoSuchStudy(study_id);
    study->outcome_json = outcome_json;
    return Ok();
  }

  Result<void> SetStudyCalibration(int64_t study_id, const std::string& calibration_json) override {
    const std::scoped_lock hold(mutex_);
    Study* study = At(studies_, study_id);
    if (study == nullptr) return NoSuchStudy(study_id);
    if (study->calibration_json.empty()) study->calibration_json = calibration_json;
    return Ok();
  }

  Result<void> SetStudyMeasure(int64_t study_id, const std::string& measure_json) override {
    const std::scoped_lock hold(mutex_);
    Study* study = At(studies_, study_id);
    if (study == nullptr) return NoSuchStudy(study_id);
    study->measure_json = measure_json;
    return Ok();
  }

  Result<Trial> AddTrial(int64_t study_id, const NewTrial& plan) override {
    const std::scoped_lock hold(mutex_);
    if (At(studies_, study_id) == nullptr) return NoSuchStudy(study_id);
    if (Result<void> allowed = CheckNewTrial(plan); !allowed) return allowed.error();
    int number = 0;
    for (const Kept& kept : trials_) {
      const Trial& other = kept.trial;
      if (other.study_id != study_id) continue;
      ++number;
      if (other.state != TrialState::kFailed && other.plan.kind == plan.kind &&
          other.plan.plan_digest == plan.plan_digest) {
        return PlanExists(Head(other), plan);
      }
    }
    Trial trial;
    trial.id = static_cast<int64_t>(trials_.size()) + 1;
    trial.number = number;
    trial.study_id = study_id;
    trial.plan = plan;
    trial.created_utc = NowUtc();
    trials_.push_back({trial, {}});
    return trial;
  }

  Result<int> StartAttempt(int64_t trial_id, const std::string& log_path) override {
    const std::scoped_lock hold(mutex_);
    Kept* kept = At(trials_, trial_id);
    if (kept == nullptr) return NoSuchTrial(trial_id);
    Trial& trial = kept->trial;
    if (Result<void> allowed = CheckMayStart(Head(trial)); !allowed) return allowed.error();
    const std::string now = NowUtc();
    EndOpenAttempt(trial, InterruptedAttempt(), now);
    Attempt attempt;
    attempt.number = static_cast<int>(trial.attempts.size()) + 1;
    attempt.started_utc = now;
    attempt.log_path = log_path;
    trial.attempts.push_back(attempt);
    trial.state = TrialState::kRunning;
    return attempt.number;
  }

  Result<void> EndAttempt(int64_t trial_id, int attempt, const Verdict& verdict, GivenAnswers answers) override {
    const std::scoped_lock hold(mutex_);
    Kept* kept = At(trials_, trial_id);
    if (kept == nullptr) return NoSuchTrial(trial_id);
    Trial& trial = kept->trial;
    const int latest = static_cast<int>(trial.attempts.size());
    const bool open = latest > 0 && trial.attempts.back().ended_utc.empty();
    if (Result<void> allowed = CheckMayEndAttempt(Head(trial), attempt, latest, open); !allowed) {
      return allowed;
    }
    EndOpenAttempt(trial, verdict, NowUtc());
    if (answers == GivenAnswers::kWithdrawn) {
      std::erase_if(kept->answers, [attempt](const auto& given) { return given.second.attempt == attempt; });
    }
    return Ok();
  }

  Result<void> AddAnswers(int64_t trial_id, const std::vector<Answer>& answers) override {
    const std::scoped_lock hold(mutex_);
    Kept* kept = At(trials_, trial_id);
    if (kept == nullptr) return NoSuchTrial(trial_id);
    const std::vector<Attempt>& attempts = kept->trial.attempts;
    const bool open = !attempts.empty() && attempts.back().ended_utc.empty();
    if (Result<void> allowed = CheckMayAnswer(Head(kept->trial), open, answers); !allowed) return allowed;
    for (const Answer& answer : answers) {
      kept->answers.try_emplace({answer.stage, answer.question, answer.seed}, Given{answer, attempts.back().number});
    }
    return Ok();
  }

  Result<void> FinishTrial(int64_t trial_id, TrialState state, const Verdict& verdict,
                           const TrialMeasurements& measurements) override {
    const std::scoped_lock hold(mutex_);
    Kept* kept = At(trials_, trial_id);
    if (kept == nullptr) return NoSuchTrial(trial_id);
    Trial& trial = kept->trial;
    if (Result<void> allowed = CheckMayFinish(Head(trial), state, verdict); !allowed) {
      return allowed;
    }
    const std::string now = NowUtc();
    EndOpenAttempt(trial, verdict, now);
    trial.state = state;
    trial.verdict = verdict;
    trial.measured = WithoutInfinities(measurements);
    trial.finished_utc = now;
    return Ok();
  }

  Result<Trial> GetTrial(int64_t trial_id) override {
    const std::scoped_lock hold(mutex_);
    const Kept* kept = At(trials_, trial_id);
    if (kept == nullptr) return NoSuchTrial(trial_id);
    return kept->trial;
  }

  Result<std::vector<Trial>> ListTrials(int64_t study_id, Plans plans) override {
    const std::scoped_lock hold(mutex_);
    if (At(studies_, study_id) == nullptr) return NoSuchStudy(study_id);
    std::vector<Trial> trials;  // kept in the order of their numbers
    for (const Kept& kept : trials_) {
      if (kept.trial.study_id != study_id) continue;
      trials.push_back(kept.trial);
      if (plans == Plans::kLeftOut) trials.back().plan.plan_json.clear();
    }
    return trials;
  }

  Result<std::vector<Answer>> ListAnswers(int64_t trial_id) override {
    const std::scoped_lock hold(mutex_);
    const Kept* kept = At(trials_, trial_id);
    if (kept == nullptr) return NoSuchTrial(trial_id);
    std::vector<Answer> answers;
    for (const auto& [key, given] : kept->answers) answers.push_back(given.answer);
    return answers;
  }

 private:
  struct Given {
    Answer answer;
    int attempt;
  };
  struct Kept {
    Trial trial;
    std::map<std::tuple<std::string, int, int>, Given> answers;  // by stage, question, seed
  };

  // Ids count from 1; null for one never given out.
  template <typename T>
  static T* At(std::vector<T>& rows, int64_t id) {
    if (id < 1 || id > static_cast<int64_t>(rows.size())) return nullptr;
    return &rows[static_cast<size_t>(id - 1)];
  }

  static void EndOpenAttempt(Trial& trial, const Verdict& verdict, const std::string& now) {
    if (trial.attempts.empty() || !trial.attempts.back().ended_utc.empty()) return;
    trial.attempts.back().ended_utc = now;
    trial.attempts.back().verdict = verdict;
  }

  TrialHead Head(const Trial& trial) {
    return {At(studies_, trial.study_id)->spec.name, trial.number, trial.state};
  }

  std::string NowUtc() const { return FormatUtc(clock_()); }

  const Clock clock_;
  std::mutex mutex_;
  std::vector<Study> studies_;
  std::vector<Kept> trials_;
};

}  // namespace

std::unique_ptr<Store> MakeMemoryStore(Clock clock) {
  return std::make_unique<MemoryStore>(std::move(clock));
}

}  // namespace hproc::controller
