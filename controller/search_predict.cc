#include <algorithm>
#include <array>
#include <cmath>

#include "base/bytes.h"
#include "controller/search_evidence.h"

namespace hproc::controller {
namespace {

constexpr double kStrictWeight = 3;  // of the proxy, see controller/search.h

// Shares of the strict and lazy bytes that a candidate shifts from one family to the other, tried in this order.
constexpr std::array<double, 3> kSteps = {0.06, 0.03, 0.015};

// Loads spent on the outer side of the fit frontier. Two an edge are the rule, more where the prediction had to learn.
constexpr int kMaxOutsideLoads = 10;

// Steps from the lower bounds to the first candidate on a garbage ray; three bisections reach single ones.
constexpr int kRaySteps = 8;

class Search {
 public:
  explicit Search(const Evidence& evidence)
      : evidence_(evidence),
        spec_(evidence.spec()),
        space_(evidence.space()),
        facts_(evidence.facts()),
        limit_(evidence.limit_bytes()),
        frontier_(PredictedFrontier(spec_, space_, limit_)) {}

  SearchStep Next() {
    if (frontier_.empty()) return NothingPredicted();
    const FloorPair first = FirstCandidate();
    const TrialFact* first_fact = evidence_.Find(first);
    if (std::optional<RunTrial> edge = OutsideEdge(first)) return *edge;
    if (first_fact == nullptr) {
      return evidence_.Looked() < spec_.max_candidates ? Evaluate(first) : SearchStep(evidence_.Conclude());
    }
    if (frontier_.size() == 1 && frontier_[0] == spec_.highest && first_fact->state == TrialState::kComplete) {
      return evidence_.Conclude();  // the highest floors fit: there is nothing to search
    }
    if (!spec_.judges && evidence_.Best() != nullptr) return Rest();  // nothing tells candidates that fit apart
    if (spec_.judges && IsSensible(*first_fact)) {
      if (std::optional<RunTrial> edge = GarbageEdge(first)) return *edge;
    }
    if (std::optional<FloorPair> next = NextCandidate(first)) return Evaluate(*next);
    return Rest();
  }

 private:
  // The edge of the best, then the end.
  SearchStep Rest() {
    if (const TrialFact* best = evidence_.Best(); best != nullptr) {
      if (std::optional<RunTrial> edge = OutsideEdge(best->at)) return *edge;
    }
    return evidence_.Conclude();
  }

  // Not even the lowest floors are predicted to fit. A prediction only steers: they are tried.
  SearchStep NothingPredicted() {
    const TrialFact* lowest = evidence_.Find(spec_.lowest);
    if (lowest == nullptr && !spec_.trust_plan) {
      return RunTrial{.at = spec_.lowest, .depth = DepthOf(Purpose::kLowestFits), .purpose = Purpose::kLowestFits, .incumbent = {}};
    }
    if (lowest != nullptr && !IsOutOfMemory(*lowest)) return evidence_.Conclude();
    SearchDone done = evidence_.Conclude();
    if (done.bound != Bound::kOutOfMemory || done.recommended) return done;
    const int64_t needed = space_.NeededBytes(spec_.lowest);
    done.why = "even the lowest floors " + evidence_.Describe(spec_.lowest) + " need " + FormatBytes(needed) + ", " +
               FormatBytes(needed - limit_) + " more than there is";
    return done;
  }

  SearchStep Evaluate(FloorPair at) const {
    RunTrial run{.at = at, .depth = Depth::kEvaluate, .purpose = Purpose::kCandidate, .incumbent = {}};
    if (const TrialFact* best = evidence_.Best(); best != nullptr) run.incumbent = best->number;
    return run;
  }

  double Proxy(FloorPair at) const {
    return kStrictWeight * space_.StrictDeficit(at.strict) + (space_.has_lazy() ? space_.LazyDeficit(at.lazy) : 0);
  }

  // The point on the frontier that the cosines like best. One that was refused although it should fit gives way to the
  // next: the second probe of that edge.
  FloorPair FirstCandidate() const {
    const auto refused = [&](FloorPair at) {
      const TrialFact* fact = evidence_.Find(at);
      return fact != nullptr && IsOutOfMemory(*fact);
    };
    return *std::ranges::min_element(frontier_, [&](FloorPair a, FloorPair b) {
      if (refused(a) != refused(b)) return refused(b);
      return Proxy(a) < Proxy(b);
    });
  }

  double Position(FloorPair at) const { return static_cast<double>(space_.StrictBytes(at.strict)); }

  std::optional<FloorPair> NextCandidate(FloorPair first) const {
    if (evidence_.Looked() >= spec_.max_candidates) return std::nullopt;
    std::vector<double> positions;
    for (const TrialFact& fact : facts_) {
      if (fact.depth == Depth::kEvaluate && !IsOutOfMemory(fact)) positions.push_back(Position(fact.at));
    }
    const TrialFact* best = evidence_.Best();
    const double center = Position(best != nullptr ? best->at : first);
    // What the two families take together is the same all along the frontier, up to a rung.
    const double shared = static_cast<double>(limit_ - space_.NeededBytes({0, 0})) +
                          static_cast<double>(space_.StrictBytes(0));
    for (double share : kSteps) {
      for (double direction : {1.0, -1.0}) {
        const double target = center + direction * share * shared;
        const FloorPair at = *std::min_element(
            frontier_.begin(), frontier_.end(),
            [&](FloorPair a, FloorPair b) { return std::abs(Position(a) - target) < std::abs(Position(b) - target); });
        const double half_step = 0.5 * share * shared;
        if ((Position(at) - center) * direction < half_step) continue;  // the frontier ends before
        const bool seen = evidence_.Find(at) != nullptr || std::ranges::any_of(positions, [&](double p) {
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
    const auto loads = std::ranges::count_if(facts_, [](const TrialFact& fact) { return fact.depth == Depth::kLoad; });
    if (loads >= kMaxOutsideLoads) return std::nullopt;  // memory does as it likes: what ran has to be enough
    for (const Purpose purpose : {Purpose::kOutsideStrict, Purpose::kOutsideLazy}) {
      if (purpose == Purpose::kOutsideLazy && !space_.has_lazy()) continue;
      FloorPair outside = at;
      int& rung = purpose == Purpose::kOutsideStrict ? outside.strict : outside.lazy;
      const int highest = purpose == Purpose::kOutsideStrict ? spec_.highest.strict : spec_.highest.lazy;
      while (rung < highest && space_.NeededBytes(outside) <= limit_) ++rung;
      if (space_.NeededBytes(outside) <= limit_) continue;  // the operator's own bound comes first
      if (evidence_.Find(outside) != nullptr) continue;
      return RunTrial{.at = outside, .depth = Depth::kLoad, .purpose = purpose, .incumbent = {}};
    }
    return std::nullopt;
  }

  std::optional<RunTrial> GarbageEdge(FloorPair first) const {
    int loads = 0;
    for (const TrialFact& fact : facts_) {
      if (fact.depth != Depth::kProbe) continue;
      if (IsInFlight(fact)) return std::nullopt;  // its answer says where to look next
      ++loads;
    }
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
        const std::optional<bool> known = evidence_.KnownGarbage(at_step(ask));
        if (!known) {
          if (loads >= spec_.max_garbage_loads || evidence_.Find(at_step(ask)) != nullptr) break;  // failed there
          return RunTrial{.at = at_step(ask), .depth = Depth::kProbe, .purpose = Purpose::kGarbageEdge, .incumbent = {}};
        }
        (*known ? garbage : sensible) = ask;
        if (garbage < 0 || sensible - garbage <= 1) break;  // sensible down to the bounds, or the edge is found
        ask = (garbage + sensible) / 2;
      }
    }
    return std::nullopt;
  }

  const Evidence& evidence_;
  const SearchSpec& spec_;
  const PlanSpace& space_;
  std::span<const TrialFact> facts_;
  int64_t limit_;  // what predictions may say of what fits
  std::vector<FloorPair> frontier_;
};

}  // namespace

SearchStep NextPredictStep(const Evidence& evidence) { return Search(evidence).Next(); }

}  // namespace hproc::controller
