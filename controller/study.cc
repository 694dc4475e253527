#include "controller/study.h"

#include <array>
#include <utility>

#include "base/check.h"

namespace hproc::controller {
namespace {

// One table per enum serves both directions, so that a name cannot be written and not be read.
template <typename E, size_t N>
using Names = std::array<std::pair<E, std::string_view>, N>;

constexpr Names<TrialKind, 4> kTrialKinds{{
    {TrialKind::kPoint, "point"},
    {TrialKind::kBaseline16Bit, "baseline_16bit"},
    {TrialKind::kBaselineInt4, "baseline_int4"},
    {TrialKind::kBaselineInt4Pruned, "baseline_int4_pruned"},
}};

constexpr Names<TrialState, 5> kTrialStates{{
    {TrialState::kWaiting, "waiting"},
    {TrialState::kRunning, "running"},
    {TrialState::kComplete, "complete"},
    {TrialState::kInfeasible, "infeasible"},
    {TrialState::kFailed, "failed"},
}};

constexpr Names<Reason, 15> kReasons{{
    {Reason::kNone, "none"},
    {Reason::kOutOfMemory, "out_of_memory"},
    {Reason::kGarbageOutput, "garbage_output"},
    {Reason::kCrash, "crash"},
    {Reason::kHang, "hang"},
    {Reason::kTimeout, "timeout"},
    {Reason::kKilled, "killed"},
    {Reason::kHostOutOfMemory, "host_oom"},
    {Reason::kContaminated, "contaminated"},
    {Reason::kLoaderFault, "loader_fault"},
    {Reason::kProtocolError, "protocol_error"},
    {Reason::kDeviceLost, "device_lost"},
    {Reason::kNodeLost, "node_lost"},
    {Reason::kNotLaunched, "not_launched"},
    {Reason::kInterrupted, "interrupted"},
}};

constexpr Names<StudyState, 3> kStudyStates{{
    {StudyState::kRunning, "running"},
    {StudyState::kInterrupted, "interrupted"},
    {StudyState::kDone, "done"},
}};

template <typename E, size_t N>
std::string_view NameOf(const Names<E, N>& names, E value) {
  for (const auto& [known, name] : names) {
    if (known == value) return name;
  }
  CheckFailed(__FILE__, __LINE__, "enumerator has a name", std::to_string(static_cast<int>(value)));
}

template <typename E, size_t N>
std::optional<E> FromName(const Names<E, N>& names, std::string_view wanted) {
  for (const auto& [value, name] : names) {
    if (name == wanted) return value;
  }
  return std::nullopt;
}

}  // namespace

std::string_view TrialKindName(TrialKind kind) { return NameOf(kTrialKinds, kind); }
std::string_view TrialStateName(TrialState state) { return NameOf(kTrialStates, state); }
std::string_view ReasonName(Reason reason) { return NameOf(kReasons, reason); }
std::string_view StudyStateName(StudyState state) { return NameOf(kStudyStates, state); }

std::optional<TrialKind> TrialKindFromName(std::string_view name) {
  return FromName(kTrialKinds, name);
}
std::optional<TrialState> TrialStateFromName(std::string_view name) {
  return FromName(kTrialStates, name);
}
std::optional<Reason> ReasonFromName(std::string_view name) { return FromName(kReasons, name); }
std::optional<StudyState> StudyStateFromName(std::string_view name) {
  return FromName(kStudyStates, name);
}

}  // namespace hproc::controller
