#include "controller/search_evidence.h"

#include <algorithm>
#include <cstdio>

#include "base/bytes.h"

namespace hproc::controller {
namespace {

// At and above these floors output is sensible unless the loader is broken.
constexpr double kBeyondDoubt = 0.99;

bool AtMost(FloorPair a, FloorPair b) { return a.strict <= b.strict && a.lazy <= b.lazy; }

}  // namespace

bool IsGarbage(const TrialFact& fact) {
  return fact.state == TrialState::kInfeasible && fact.reason == Reason::kGarbageOutput;
}

bool IsOutOfMemory(const TrialFact& fact) {
  return fact.state == TrialState::kInfeasible && fact.reason == Reason::kOutOfMemory;
}

bool IsSensible(const TrialFact& fact) { return fact.state == TrialState::kComplete && fact.depth != Depth::kLoad; }

Evidence::Evidence(const SearchSpec& spec, const PlanSpace& space, std::span<const TrialFact> facts)
    : spec_(spec), space_(space), facts_(facts) {
  FindContradictions();
  budget_ = spec_.budget_bytes - Overhead();
}

void Evidence::FindContradictions() {
  // Bytes are monotone in each floor, by the same sums that predict them: the run that needed the most speaks for all.
  const TrialFact* largest = nullptr;
  for (const TrialFact& fact : facts_) {
    if (fact.state != TrialState::kComplete && !IsGarbage(fact)) continue;
    if (largest == nullptr || space_.NeededBytes(fact.at) > space_.NeededBytes(largest->at)) largest = &fact;
  }
  for (const TrialFact& fact : facts_) {
    if (!IsOutOfMemory(fact)) continue;
    if (largest == nullptr || space_.NeededBytes(fact.at) > space_.NeededBytes(largest->at)) {
      refusals_.push_back(&fact);
      continue;
    }
    alarms_.push_back("trial " + std::to_string(fact.number) + " ran out of memory at " + Describe(fact.at) + ", yet trial " +
                      std::to_string(largest->number) + " ran at " + Describe(largest->at) +
                      ", which needs no less: the refusal is not counted");
  }
  for (const TrialFact& garbage : facts_) {
    if (!IsGarbage(garbage)) continue;
    for (const TrialFact& sensible : facts_) {
      if (!IsSensible(sensible) || !AtMost(sensible.at, garbage.at)) continue;
      alarms_.push_back("trial " + std::to_string(garbage.number) + " talked garbage at " + Describe(garbage.at) +
                        ", yet trial " + std::to_string(sensible.number) + " made sense at " + Describe(sensible.at) +
                        ": the garbage frontier is blurred here");
      break;
    }
  }
}

// By how much runs take more than predicted. Measured where something ran; a refusal where that says it fits counts with
// what it lacked, alone while nothing ran yet, later only with a second one.
int64_t Evidence::Overhead() const {
  bool measured = false;
  int64_t overhead = 0;
  for (const TrialFact& fact : facts_) {
    if (fact.state != TrialState::kComplete || fact.measured_bytes <= 0) continue;
    measured = true;
    overhead = std::max(overhead, fact.measured_bytes - fact.predicted_bytes);
  }
  int unexpected = 0;
  int64_t lacked = 0;
  for (const TrialFact* fact : refusals_) {
    if (fact->predicted_bytes + overhead > spec_.budget_bytes) continue;
    ++unexpected;
    lacked = std::max(lacked, spec_.budget_bytes - fact->predicted_bytes + std::max<int64_t>(1, fact->short_bytes));
  }
  return unexpected >= (measured ? 2 : 1) ? std::max(overhead, lacked) : overhead;
}

const TrialFact* Evidence::Find(FloorPair at) const {
  const std::string& digest = space_.At(at).digest;
  const auto found = std::ranges::find(facts_, digest, &TrialFact::digest);
  return found == facts_.end() ? nullptr : &*found;
}

bool Evidence::Acceptable(const TrialFact& fact) const {
  if (fact.state != TrialState::kComplete || fact.depth != Depth::kEvaluate || !fact.accuracy.all_questions) return false;
  if (fact.measured_bytes > spec_.budget_bytes) return false;
  return fact.accuracy.strict_correct >= spec_.min_accuracy * fact.accuracy.total;
}

const TrialFact* Evidence::Best() const {
  const TrialFact* best = nullptr;
  for (const TrialFact& fact : facts_) {
    if (Acceptable(fact) && (best == nullptr || Better(fact, *best))) best = &fact;
  }
  return best;
}

int Evidence::Looked() const {
  return static_cast<int>(std::ranges::count_if(
      facts_, [](const TrialFact& fact) { return fact.depth == Depth::kEvaluate && !IsOutOfMemory(fact); }));
}

std::optional<bool> Evidence::KnownGarbage(FloorPair at) const {
  const auto says = [&](const TrialFact& fact) {
    return IsGarbage(fact) && (AtMost(at, fact.at) || fact.digest == space_.At(at).digest);
  };
  if (std::ranges::any_of(facts_, says)) return true;
  const auto denies = [&](const TrialFact& fact) {
    return IsSensible(fact) && (AtMost(fact.at, at) || fact.digest == space_.At(at).digest);
  };
  if (std::ranges::any_of(facts_, denies)) return false;
  return std::nullopt;
}

bool Evidence::BeyondDoubt(FloorPair at) const {
  const quant::Floors floors = space_.FloorsAt(at);
  return floors.strict >= kBeyondDoubt && (!space_.has_lazy() || floors.lazy >= kBeyondDoubt);
}

std::optional<std::string> Evidence::Fault() const {
  for (const TrialFact& fact : facts_) {
    if (fact.state == TrialState::kFailed && fact.reason == Reason::kDeviceLost) {
      return "the device was lost in trial " + std::to_string(fact.number);
    }
    if (IsGarbage(fact) && BeyondDoubt(fact.at)) {
      return "garbage at floors " + Describe(fact.at) + ": the loader is at fault, not the quantization";
    }
  }
  return std::nullopt;
}

SearchDone Evidence::Faulty(std::string what) const {
  SearchDone done;
  done.fault = std::move(what);
  done.why = *done.fault;
  done.alarms = alarms_;
  return done;
}

SearchDone Evidence::Conclude() const {
  SearchDone done;
  done.alarms = alarms_;
  if (const TrialFact* best = Best(); best != nullptr) {
    done.recommended = best->number;
    const bool at_top =
        best->at.strict >= spec_.highest.strict && (!space_.has_lazy() || best->at.lazy >= spec_.highest.lazy);
    done.bound = at_top ? Bound::kNone : Bound::kOutOfMemory;
    done.why = at_top ? "the highest floors fit" : "higher floors do not fit the memory cap";
    return done;
  }
  // Nothing to recommend: the furthest that any candidate came says what forbids it.
  int garbage = 0;
  int inaccurate = 0;
  int failed = 0;
  for (const TrialFact& fact : facts_) {
    if (fact.depth != Depth::kEvaluate) continue;
    garbage += IsGarbage(fact) ? 1 : 0;
    inaccurate += fact.state == TrialState::kComplete ? 1 : 0;
    failed += fact.state == TrialState::kFailed ? 1 : 0;
  }
  if (inaccurate > 0) {
    done.bound = Bound::kAccuracy;
    done.why = "no point that fits reaches the accuracy asked for";
  } else if (garbage > 0) {
    done.bound = Bound::kGarbageOutput;
    done.why = "every point that fits talks garbage";
  } else if (failed > 0) {
    done.fault = "no candidate could be run: all " + std::to_string(failed) + " failed";
    done.why = *done.fault;
  } else {
    done.bound = Bound::kOutOfMemory;
    done.why = "no point fits the memory cap";
  }
  return done;
}

std::string Evidence::Describe(FloorPair at) const {
  const quant::Floors floors = space_.FloorsAt(at);
  char text[64];
  std::snprintf(text, sizeof text, space_.has_lazy() ? "(%.6g, %.6g)" : "%.6g", floors.strict, floors.lazy);
  return text;
}

}  // namespace hproc::controller
