#include "controller/search_evidence.h"

#include <algorithm>
#include <cstdio>

#include "base/bytes.h"

namespace hproc::controller {
namespace {

bool AtMost(FloorPair a, FloorPair b) { return a.strict <= b.strict && a.lazy <= b.lazy; }

}  // namespace

bool IsInFlight(const TrialFact& fact) {
  return fact.state == TrialState::kWaiting || fact.state == TrialState::kRunning;
}

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
  limit_ = Limit();
}

void Evidence::FindContradictions() {
  // Bytes are monotone in each floor, by the same sums that predict them: the run that needed the most speaks for all.
  for (const TrialFact& fact : facts_) {
    if (fact.state != TrialState::kComplete && !IsGarbage(fact)) continue;
    if (largest_ == nullptr || Need(fact) > Need(*largest_)) largest_ = &fact;
  }
  for (const TrialFact& fact : facts_) {
    if (!IsOutOfMemory(fact)) continue;
    if (largest_ == nullptr || Need(fact) > Need(*largest_)) {
      refusals_.push_back(&fact);
      continue;
    }
    alarms_.push_back("trial " + std::to_string(fact.number) + " ran out of memory at " + Describe(fact.at) + ", yet trial " +
                      std::to_string(largest_->number) + " ran at " + Describe(largest_->at) +
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

int64_t Evidence::Need(const TrialFact& fact) const { return space_.NeededBytes(fact.at); }

// What the prediction may say of a point for it to fit.
//
//   predicted need ─────────┬──────────┬───────────────┬────────▶
//                        a run      the limit      a refusal
//
// The run nearest to the boundary tells by how much the prediction is off there, to either side; before anything ran the
// prediction is believed. A refusal where that says it fits counts with what it lacked, alone while nothing ran yet, later
// only with a second one. What ran is within the limit whatever was refused.
int64_t Evidence::Limit() const {
  int64_t limit = spec_.budget_bytes;
  const bool measured = largest_ != nullptr && (largest_->peak_bytes > 0 || largest_->measured_bytes > 0);
  if (measured) {
    limit -= largest_->peak_bytes > 0 ? largest_->peak_bytes - Need(*largest_)
                                      : largest_->measured_bytes - largest_->predicted_bytes;
  }
  int unexpected = 0;
  int64_t refused_from = limit;
  for (const TrialFact* fact : refusals_) {
    if (Need(*fact) > limit) continue;
    ++unexpected;
    refused_from = std::min(refused_from, Need(*fact) - std::max<int64_t>(1, fact->short_bytes));
  }
  if (unexpected >= (measured ? 2 : 1)) limit = refused_from;
  return largest_ != nullptr ? std::max(limit, Need(*largest_)) : limit;
}

const TrialFact* Evidence::Find(FloorPair at) const {
  const std::string& digest = space_.At(at).digest;
  // A failed one may have been run again since.
  const auto found = std::find_if(facts_.rbegin(), facts_.rend(), [&](const TrialFact& fact) { return fact.digest == digest; });
  return found == facts_.rend() ? nullptr : &*found;
}

bool Evidence::Acceptable(const TrialFact& fact) const {
  if (fact.state != TrialState::kComplete || fact.depth != Depth::kEvaluate) return false;
  if (spec_.judges && !fact.accuracy.all_questions) return false;
  if (fact.measured_bytes <= 0 || fact.measured_bytes > spec_.budget_bytes) return false;
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

std::optional<std::string> Evidence::Fault() const {
  for (const TrialFact& fact : facts_) {
    if (fact.state == TrialState::kFailed && fact.reason == Reason::kLoaderFault && Find(fact.at) == &fact) {
      return "the loader is at fault, not the quantization: trial " + std::to_string(fact.number) + ": " + fact.message;
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
    done.why = at_top                ? "the highest floors fit"
               : refusals_.empty() ? "higher floors are not predicted to fit the memory cap; no load has shown it"
                                     : "higher floors do not fit the memory cap";
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
