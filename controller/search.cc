#include "controller/search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

#include "base/bytes.h"

namespace hproc::controller {
namespace {

constexpr double kStrictWeight = 3;  // of the proxy, see the header

// Shares of the strict and lazy bytes that a candidate shifts from one family to the other, tried in this order.
constexpr std::array<double, 3> kSteps = {0.06, 0.03, 0.015};

// Steps from the lower bounds to the first candidate on a garbage ray; three bisections reach single ones.
constexpr int kRaySteps = 8;

// At and above these floors output is sensible unless the loader is broken.
constexpr double kBeyondDoubt = 0.99;

std::string Describe(const PlanSpace& space, FloorPair at) {
  const quant::Floors floors = space.FloorsAt(at);
  char text[64];
  std::snprintf(text, sizeof text, space.has_lazy() ? "(%.6g, %.6g)" : "%.6g", floors.strict, floors.lazy);
  return text;
}

bool IsGarbage(const TrialFact& fact) {
  return fact.state == TrialState::kInfeasible && fact.reason == Reason::kGarbageOutput;
}
bool IsOutOfMemory(const TrialFact& fact) {
  return fact.state == TrialState::kInfeasible && fact.reason == Reason::kOutOfMemory;
}
bool IsSensible(const TrialFact& fact) { return fact.state == TrialState::kComplete && fact.depth != Depth::kLoad; }

class Search {
 public:
  Search(const SearchSpec& spec, const PlanSpace& space, std::span<const TrialFact> facts)
      : spec_(spec), space_(space), facts_(facts) {
    budget_ = spec.budget_bytes - Overhead();
    frontier_ = PredictedFrontier(spec_, space_, budget_);
  }

  SearchStep Next() {
    for (const TrialFact& fact : facts_) {
      if (fact.state == TrialState::kFailed && fact.reason == Reason::kDeviceLost) {
        return Fault("the device was lost in trial " + std::to_string(fact.number));
      }
      if (IsGarbage(fact) && BeyondDoubt(fact.at)) {
        return Fault("garbage at floors " + Describe(space_, fact.at) + ": the loader is at fault, not the quantization");
      }
    }
    if (frontier_.empty()) return NothingPredicted();
    const FloorPair first = FirstCandidate();
    const TrialFact* first_fact = Find(first);
    if (std::optional<RunTrial> edge = OutsideEdge(first)) return *edge;
    if (first_fact == nullptr) return Looked() < spec_.max_candidates ? Evaluate(first) : SearchStep(Done());
    if (frontier_.size() == 1 && frontier_[0] == spec_.highest && first_fact->state == TrialState::kComplete) {
      return Done();  // the highest floors fit: there is nothing to search
    }
    if (IsSensible(*first_fact)) {
      if (std::optional<RunTrial> edge = GarbageEdge(first)) return *edge;
    }
    if (std::optional<FloorPair> next = NextCandidate(first)) return Evaluate(*next);
    if (const TrialFact* best = Best(); best != nullptr) {
      if (std::optional<RunTrial> edge = OutsideEdge(best->at)) return *edge;
    }
    return Done();
  }

 private:
  // By how much runs took more than predicted; a refusal where the prediction said it fits counts with what it lacked.
  int64_t Overhead() const {
    int64_t overhead = 0;
    for (const TrialFact& fact : facts_) {
      if (fact.state == TrialState::kComplete && fact.measured_bytes > 0) {
        overhead = std::max(overhead, fact.measured_bytes - fact.predicted_bytes);
      }
      if (IsOutOfMemory(fact) && fact.predicted_bytes <= spec_.budget_bytes) {
        overhead = std::max(overhead, spec_.budget_bytes - fact.predicted_bytes + std::max<int64_t>(1, fact.short_bytes));
      }
    }
    return overhead;
  }

  const TrialFact* Find(FloorPair at) const {
    const std::string& digest = space_.At(at).digest;
    for (const TrialFact& fact : facts_) {
      if (fact.digest == digest) return &fact;
    }
    return nullptr;
  }

  bool BeyondDoubt(FloorPair at) const {
    const quant::Floors floors = space_.FloorsAt(at);
    return floors.strict >= kBeyondDoubt && (!space_.has_lazy() || floors.lazy >= kBeyondDoubt);
  }

  SearchStep Fault(std::string what) const {
    SearchDone done;
    done.fault = std::move(what);
    done.why = *done.fault;
    return done;
  }

  SearchStep NothingPredicted() {
    const TrialFact* lowest = Find(spec_.lowest);
    if (lowest == nullptr && !spec_.trust_plan) {
      return RunTrial{.at = spec_.lowest, .depth = Depth::kLoad, .purpose = Purpose::kLowestFits, .incumbent = {}};
    }
    SearchDone done;
    done.bound = Bound::kOutOfMemory;
    const int64_t needed = space_.NeededBytes(spec_.lowest);
    done.why = "even the lowest floors " + Describe(space_, spec_.lowest) + " need " + FormatBytes(needed) + ", " +
               FormatBytes(needed - budget_) + " more than there is";
    if (lowest != nullptr && lowest->state == TrialState::kComplete) {
      done.why += " by the prediction, and yet they loaded: the prediction is wrong";
      done.fault = done.why;
    }
    return done;
  }

  SearchStep Evaluate(FloorPair at) const {
    RunTrial run{.at = at, .depth = Depth::kEvaluate, .purpose = Purpose::kCandidate, .incumbent = {}};
    if (const TrialFact* best = Best(); best != nullptr) run.incumbent = best->number;
    return run;
  }

  double Proxy(FloorPair at) const {
    return kStrictWeight * space_.StrictDeficit(at.strict) + (space_.has_lazy() ? space_.LazyDeficit(at.lazy) : 0);
  }

  FloorPair FirstCandidate() const {
    return *std::min_element(frontier_.begin(), frontier_.end(),
                             [&](FloorPair a, FloorPair b) { return Proxy(a) < Proxy(b); });
  }

  // The best trial that may be recommended; nullptr while there is none.
  const TrialFact* Best() const {
    const TrialFact* best = nullptr;
    for (const TrialFact& fact : facts_) {
      if (!Acceptable(fact)) continue;
      if (best == nullptr || Better(fact, *best)) best = &fact;
    }
    return best;
  }

  bool Acceptable(const TrialFact& fact) const {
    if (fact.state != TrialState::kComplete || fact.depth != Depth::kEvaluate || !fact.accuracy.all_questions) return false;
    if (fact.measured_bytes > spec_.budget_bytes) return false;
    return fact.accuracy.strict_correct >= spec_.min_accuracy * fact.accuracy.total;
  }

  double Position(FloorPair at) const { return static_cast<double>(space_.StrictBytes(at.strict)); }

  // Candidates whose output was looked at, or was to be: one that did not fit taught the prediction and nothing else.
  int Looked() const {
    return static_cast<int>(std::ranges::count_if(
        facts_, [](const TrialFact& fact) { return fact.depth == Depth::kEvaluate && !IsOutOfMemory(fact); }));
  }

  std::optional<FloorPair> NextCandidate(FloorPair first) const {
    if (Looked() >= spec_.max_candidates) return std::nullopt;
    std::vector<double> positions;
    for (const TrialFact& fact : facts_) {
      if (fact.depth == Depth::kEvaluate && !IsOutOfMemory(fact)) positions.push_back(Position(fact.at));
    }
    const TrialFact* best = Best();
    const double center = Position(best != nullptr ? best->at : first);
    // What the two families take together is the same all along the frontier, up to a rung.
    const double shared = static_cast<double>(budget_ - space_.NeededBytes({0, 0})) +
                          static_cast<double>(space_.StrictBytes(0));
    for (double share : kSteps) {
      for (double direction : {1.0, -1.0}) {
        const double target = center + direction * share * shared;
        const FloorPair at = *std::min_element(
            frontier_.begin(), frontier_.end(),
            [&](FloorPair a, FloorPair b) { return std::abs(Position(a) - target) < std::abs(Position(b) - target); });
        const double half_step = 0.5 * share * shared;
        if ((Position(at) - center) * direction < half_step) continue;  // the frontier ends before
        const bool seen = Find(at) != nullptr || std::ranges::any_of(positions, [&](double p) {
                            return std::abs(p - Position(at)) < half_step;
                          });
        if (!seen) return at;
      }
    }
    return std::nullopt;
  }

  // The nearest rung outside the predicted frontier in each floor, if it was not loaded yet.
  std::optional<RunTrial> OutsideEdge(FloorPair at) const {
    if (spec_.trust_plan) return std::nullopt;
    for (const Purpose purpose : {Purpose::kOutsideStrict, Purpose::kOutsideLazy}) {
      if (purpose == Purpose::kOutsideLazy && !space_.has_lazy()) continue;
      FloorPair outside = at;
      int& rung = purpose == Purpose::kOutsideStrict ? outside.strict : outside.lazy;
      const int highest = purpose == Purpose::kOutsideStrict ? spec_.highest.strict : spec_.highest.lazy;
      while (rung < highest && space_.NeededBytes(outside) <= budget_) ++rung;
      if (space_.NeededBytes(outside) <= budget_) continue;  // the operator's own bound comes first
      if (Find(outside) != nullptr) continue;
      return RunTrial{.at = outside, .depth = Depth::kLoad, .purpose = purpose, .incumbent = {}};
    }
    return std::nullopt;
  }

  // Whether output at `at` is garbage, as far as trials tell: a sensible trial speaks for all points above it, a garbage
  // one for all below.
  std::optional<bool> KnownGarbage(FloorPair at) const {
    for (const TrialFact& fact : facts_) {
      if (IsGarbage(fact) && at.strict <= fact.at.strict && at.lazy <= fact.at.lazy) return true;
      if (IsSensible(fact) && at.strict >= fact.at.strict && at.lazy >= fact.at.lazy) return false;
      if (fact.digest == space_.At(at).digest && (IsGarbage(fact) || IsSensible(fact))) return IsGarbage(fact);
    }
    return std::nullopt;
  }

  std::optional<RunTrial> GarbageEdge(FloorPair first) const {
    int loads = 0;
    for (const TrialFact& fact : facts_) loads += fact.depth == Depth::kProbe ? 1 : 0;
    // Rays from the lower bounds to the first candidate: along both floors at once, then along each.
    struct Ray {
      bool strict;
      bool lazy;
    };
    for (const Ray ray : {Ray{true, true}, Ray{true, false}, Ray{false, true}}) {
      if (ray.lazy && !space_.has_lazy()) continue;
      const auto at_step = [&](int step) {
        FloorPair at = first;
        if (ray.strict) at.strict = spec_.lowest.strict + (first.strict - spec_.lowest.strict) * step / kRaySteps;
        if (ray.lazy) at.lazy = spec_.lowest.lazy + (first.lazy - spec_.lowest.lazy) * step / kRaySteps;
        return at;
      };
      int garbage = -1;           // the highest step known to be garbage
      int sensible = kRaySteps;   // the lowest step known to be sensible
      int ask = 0;
      while (true) {
        const std::optional<bool> known = KnownGarbage(at_step(ask));
        if (!known) {
          if (loads >= spec_.max_garbage_loads || Find(at_step(ask)) != nullptr) break;  // failed there
          return RunTrial{.at = at_step(ask), .depth = Depth::kProbe, .purpose = Purpose::kGarbageEdge, .incumbent = {}};
        }
        (*known ? garbage : sensible) = ask;
        if (garbage < 0 || sensible - garbage <= 1) break;  // sensible down to the bounds, or the edge is found
        ask = (garbage + sensible) / 2;
      }
    }
    return std::nullopt;
  }

  SearchStep Done() const {
    SearchDone done;
    if (const TrialFact* best = Best(); best != nullptr) {
      done.recommended = best->number;
      const bool at_top = best->at.strict >= spec_.highest.strict &&
                          (!space_.has_lazy() || best->at.lazy >= spec_.highest.lazy);
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

  const SearchSpec& spec_;
  const PlanSpace& space_;
  std::span<const TrialFact> facts_;
  int64_t budget_ = 0;  // what predictions may use
  std::vector<FloorPair> frontier_;
};

}  // namespace

std::string_view PurposeName(Purpose purpose) {
  switch (purpose) {
    case Purpose::kCandidate: return "candidate";
    case Purpose::kOutsideStrict: return "outside_strict";
    case Purpose::kOutsideLazy: return "outside_lazy";
    case Purpose::kGarbageEdge: return "garbage_edge";
    case Purpose::kLowestFits: return "lowest_fits";
  }
  return "?";
}

std::string_view BoundName(Bound bound) {
  switch (bound) {
    case Bound::kNone: return "none";
    case Bound::kOutOfMemory: return "out_of_memory";
    case Bound::kGarbageOutput: return "garbage_output";
    case Bound::kAccuracy: return "accuracy";
  }
  return "?";
}

std::vector<FloorPair> PredictedFrontier(const SearchSpec& spec, const PlanSpace& space, int64_t budget_bytes) {
  std::vector<FloorPair> corners;
  int lazy = space.has_lazy() ? spec.lowest.lazy : spec.highest.lazy;
  int best_lazy = lazy - 1;
  for (int strict = spec.highest.strict; strict >= spec.lowest.strict; --strict) {
    if (space.NeededBytes({strict, lazy}) > budget_bytes) continue;
    while (lazy < spec.highest.lazy && space.NeededBytes({strict, lazy + 1}) <= budget_bytes) ++lazy;
    if (lazy <= best_lazy) continue;  // a higher strict floor allows as much
    corners.push_back({strict, lazy});
    best_lazy = lazy;
  }
  std::ranges::reverse(corners);
  return corners;
}

bool Better(const TrialFact& a, const TrialFact& b) {
  // Of as many questions; trials of one study have that in common.
  if (a.accuracy.strict_correct != b.accuracy.strict_correct) return a.accuracy.strict_correct > b.accuracy.strict_correct;
  if (a.decode_tok_per_s > 0 && b.decode_tok_per_s > 0) {
    const double difference = a.decode_tok_per_s - b.decode_tok_per_s;
    if (std::abs(difference) > 2 * std::hypot(a.decode_error, b.decode_error)) return difference > 0;
  }
  if (a.measured_bytes != b.measured_bytes) return a.measured_bytes < b.measured_bytes;
  return a.at > b.at;
}

std::vector<int> ParetoFrontier(std::span<const TrialFact> facts) {
  const auto counts = [](const TrialFact& fact) {
    return fact.state == TrialState::kComplete && fact.accuracy.all_questions;
  };
  const auto dominates = [](const TrialFact& a, const TrialFact& b) {
    const bool no_worse = a.accuracy.strict_correct >= b.accuracy.strict_correct &&
                          a.decode_tok_per_s >= b.decode_tok_per_s && a.measured_bytes <= b.measured_bytes;
    const bool better = a.accuracy.strict_correct > b.accuracy.strict_correct ||
                        a.decode_tok_per_s > b.decode_tok_per_s || a.measured_bytes < b.measured_bytes;
    return no_worse && better;
  };
  std::vector<int> frontier;
  for (const TrialFact& fact : facts) {
    if (!counts(fact)) continue;
    const bool dominated =
        std::ranges::any_of(facts, [&](const TrialFact& other) { return counts(other) && dominates(other, fact); });
    if (!dominated) frontier.push_back(fact.number);
  }
  return frontier;
}

SearchStep NextStep(const SearchSpec& spec, const PlanSpace& space, std::span<const TrialFact> facts) {
  return Search(spec, space, facts).Next();
}

}  // namespace hproc::controller
