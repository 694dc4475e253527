#include "controller/store_rules.h"

#include <utf8proc.h>

#include <cmath>
#include <initializer_list>
#include <limits>
#include <optional>
#include <utility>

#include "base/utf8.h"

namespace hproc::controller {
namespace {

constexpr size_t kMaxNameBytes = 200;

// Neither a control character nor one that hides or reorders what stands beside it in a terminal or
// a table. Joiners stay: emoji and several scripts are written with them.
bool IsPrintable(char32_t code_point) {
  constexpr char32_t kNonJoiner = 0x200c, kJoiner = 0x200d;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_CF:
      return code_point == kNonJoiner || code_point == kJoiner;
    default:
      return true;
  }
}

Result<void> CheckName(std::string_view name) {
  if (name.empty()) return Error{"a study needs a name"};
  if (name.size() > kMaxNameBytes) {
    return Error{"study name: " + std::to_string(name.size()) + " bytes, more than the " +
                 std::to_string(kMaxNameBytes) + " allowed"};
  }
  while (!name.empty()) {
    const Utf8Char first = DecodeUtf8(name, 0);
    if (!first.valid) return Error{"study name: not UTF-8"};
    if (!IsPrintable(first.code_point)) return Error{"study name: holds a control character"};
    name.remove_prefix(first.bytes);
  }
  return Ok();
}

Result<void> CheckNumbers(std::string_view of,
                          std::initializer_list<std::pair<std::string_view, double>> named_values) {
  for (const auto& [name, value] : named_values) {
    if (!std::isfinite(value)) {
      return Error{std::string(of) + ": " + std::string(name) + " is not a number"};
    }
  }
  return Ok();
}

std::string Label(const TrialHead& trial) {
  return "trial " + std::to_string(trial.number) + " of study \"" + trial.study_name + "\"";
}

// "trial 3 of study "demo" is complete: <rule>"
Error Refusal(const TrialHead& trial, std::string_view rule) {
  return Error{Label(trial) + " is " + std::string(TrialStateName(trial.state)) + ": " +
               std::string(rule)};
}

constexpr std::string_view kFrozen = "a finished trial never changes";

bool ReasonFits(TrialState state, Reason reason) {
  const bool infeasible = reason == Reason::kOutOfMemory || reason == Reason::kGarbageOutput;
  switch (state) {
    case TrialState::kComplete:
      return reason == Reason::kNone;
    case TrialState::kInfeasible:
      return infeasible;
    case TrialState::kFailed:
      return reason != Reason::kNone && !infeasible;
    case TrialState::kWaiting:
    case TrialState::kRunning:
      break;
  }
  return false;
}

}  // namespace

bool IsFinished(TrialState state) {
  return state == TrialState::kComplete || state == TrialState::kInfeasible ||
         state == TrialState::kFailed;
}

Result<void> CheckStudySpec(const StudySpec& spec) {
  if (Result<void> name = CheckName(spec.name); !name) return name;
  const std::initializer_list<std::pair<std::string_view, std::string_view>> texts = {
      {"model_dir", spec.model_dir},
      {"fingerprint", spec.fingerprint},
      {"device", spec.deployment.device},
      {"kv_dtype", spec.deployment.kv_dtype},
      {"mode", spec.mode},
      {"strategy", spec.strategy},
      {"task_id", spec.eval.task_id},
      {"tasks_path", spec.eval.tasks_path},
      {"shots_path", spec.eval.shots_path},
      {"tasks_sha256", spec.eval.tasks_sha256},
      {"shots_sha256", spec.eval.shots_sha256},
      {"worker_version", spec.worker_version},
      {"device_name", spec.device_name},
  };
  for (const auto& [field, text] : texts) {
    if (!IsValidUtf8(text)) {
      return Error{"study \"" + spec.name + "\": " + std::string(field) + " is not UTF-8"};
    }
  }
  return CheckNumbers("study \"" + spec.name + "\"", {{"lowest.strict", spec.lowest.strict},
                                                      {"lowest.lazy", spec.lowest.lazy},
                                                      {"lowest.head", spec.lowest.head},
                                                      {"highest.strict", spec.highest.strict},
                                                      {"highest.lazy", spec.highest.lazy},
                                                      {"highest.head", spec.highest.head},
                                                      {"min_accuracy", spec.min_accuracy}});
}

Result<void> CheckNewTrial(const NewTrial& trial) {
  if (trial.predicted_bytes < 0 || trial.predicted_weight_bytes < 0) {
    return Error{"new trial: predicted bytes are negative"};
  }
  return CheckNumbers("new trial", {{"floors.strict", trial.floors.strict},
                                    {"floors.lazy", trial.floors.lazy},
                                    {"floors.head", trial.floors.head},
                                    {"bits_per_weight", trial.bits_per_weight}});
}

Result<void> CheckMayStart(const TrialHead& trial) {
  if (IsFinished(trial.state)) return Refusal(trial, kFrozen);
  return Ok();
}

Result<void> CheckMayEndAttempt(const TrialHead& trial, int attempt, int latest, bool open) {
  if (IsFinished(trial.state)) return Refusal(trial, kFrozen);
  if (attempt < 1 || attempt > latest) {
    return Error{Label(trial) + " has no attempt " + std::to_string(attempt)};
  }
  if (attempt < latest || !open) {
    return Error{Label(trial) + ": attempt " + std::to_string(attempt) + " has already ended"};
  }
  return Ok();
}

Result<void> CheckMayAnswer(const TrialHead& trial, bool open, const std::vector<Answer>& answers) {
  if (IsFinished(trial.state)) return Refusal(trial, kFrozen);
  if (trial.state != TrialState::kRunning) {
    return Refusal(trial, "only a running trial has answers");
  }
  if (!open) return Error{Label(trial) + ": only an attempt that runs gives answers"};
  for (const Answer& answer : answers) {
    if (!IsValidUtf8(answer.stage) || answer.stage.empty()) {
      return Error{Label(trial) + ": an answer's stage is empty or not UTF-8"};
    }
  }
  return Ok();
}

Result<void> CheckMayFinish(const TrialHead& trial, TrialState state, const Verdict& verdict) {
  if (IsFinished(trial.state)) return Refusal(trial, kFrozen);
  if (trial.state != TrialState::kRunning) {
    return Refusal(trial, "only a running trial can finish");
  }
  if (!IsFinished(state)) {
    return Error{Label(trial) + " cannot finish as " + std::string(TrialStateName(state))};
  }
  if (!ReasonFits(state, verdict.reason)) {
    return Error{Label(trial) + ": " + std::string(TrialStateName(state)) +
                 " does not go with the reason " + std::string(ReasonName(verdict.reason))};
  }
  return Ok();
}

TrialMeasurements WithoutInfinities(TrialMeasurements measured) {
  const auto clean = [](double& value) {
    if (!std::isfinite(value)) value = std::numeric_limits<double>::quiet_NaN();
  };
  if (measured.load) {
    clean(measured.load->bits_per_weight);
    clean(measured.load->seconds);
    for (worker::FamilyReport& family : measured.load->families) {
      clean(family.min_cosine);
      clean(family.mean_cosine);
      clean(family.min_norm_ratio);
      clean(family.max_norm_ratio);
    }
  }
  for (evals::ThroughputSample& sample : measured.throughput) clean(sample.seconds);
  for (auto& [phase, seconds] : measured.phase_seconds) clean(seconds);
  return measured;
}

Verdict InterruptedAttempt() {
  Verdict verdict;
  verdict.reason = Reason::kInterrupted;
  verdict.message = "the controller ended before the attempt did";
  return verdict;
}

Error NoSuchStudy(int64_t study_id) { return Error{"no study " + std::to_string(study_id)}; }

Error NoSuchTrial(int64_t trial_id) { return Error{"no trial " + std::to_string(trial_id)}; }

Error StudyExists(std::string_view name) {
  return Error{"a study named \"" + std::string(name) + "\" exists"};
}

Error PlanExists(const TrialHead& holder, const NewTrial& wanted) {
  return Refusal(holder, "it already is the " + std::string(TrialKindName(wanted.kind)) +
                             " trial of plan " + wanted.plan_digest);
}

}  // namespace hproc::controller
