// walk and grid: the search without a rate table, on a lattice of kLatticeSteps floors each way. They are kept to compare
// what they cost with the search that predicts.
#include "controller/search_evidence.h"

namespace hproc::controller {
namespace {

constexpr int kLatticeSteps = 10;

// The lattice's points, evenly spaced on the ladder, both bounds included.
class Lattice {
 public:
  explicit Lattice(const Evidence& evidence)
      : spec_(evidence.spec()), lazy_steps_(evidence.space().has_lazy() ? kLatticeSteps : 1) {}

  int strict_steps() const { return kLatticeSteps; }
  int lazy_steps() const { return lazy_steps_; }
  FloorPair At(int strict, int lazy) const {
    return {.strict = Between(spec_.lowest.strict, spec_.highest.strict, strict, kLatticeSteps),
            .lazy = Between(spec_.lowest.lazy, spec_.highest.lazy, lazy, lazy_steps_)};
  }

 private:
  static int Between(int lowest, int highest, int step, int steps) {
    return steps == 1 ? highest : lowest + (highest - lowest) * step / (steps - 1);
  }

  const SearchSpec& spec_;
  int lazy_steps_;
};

RunTrial LookAt(const Evidence& evidence, FloorPair at, Purpose purpose) {
  RunTrial run{.at = at, .depth = Depth::kEvaluate, .purpose = purpose, .incumbent = {}};
  if (const TrialFact* best = evidence.Best(); best != nullptr) run.incumbent = best->number;
  return run;
}

}  // namespace

// The staircase from the upper left: what does not fit asks for a lower strict floor, what fits for a higher lazy one. It
// passes every corner of the fit frontier in at most strict_steps + lazy_steps - 1 loads (saddleback search).
//
//   x ─ does not fit      x
//   o ─ fits              x
//                         o─o─x
//                             o─o─o─x
SearchStep NextWalkStep(const Evidence& evidence) {
  const Lattice lattice(evidence);
  int strict = lattice.strict_steps() - 1;
  int lazy = 0;
  while (strict >= 0 && lazy < lattice.lazy_steps()) {
    const FloorPair at = lattice.At(strict, lazy);
    const TrialFact* fact = evidence.Find(at);
    if (fact == nullptr) return LookAt(evidence, at, Purpose::kWalkStep);
    if (IsInFlight(*fact)) return SearchWait{};
    if (IsOutOfMemory(*fact)) {
      --strict;
    } else {
      ++lazy;
    }
  }
  return evidence.Conclude();
}

// Every point, from the highest floors down, so that the good ones come before those that are to be compared with them.
SearchStep NextGridStep(const Evidence& evidence) {
  const Lattice lattice(evidence);
  for (int strict = lattice.strict_steps() - 1; strict >= 0; --strict) {
    for (int lazy = lattice.lazy_steps() - 1; lazy >= 0; --lazy) {
      const FloorPair at = lattice.At(strict, lazy);
      if (evidence.Find(at) == nullptr) return LookAt(evidence, at, Purpose::kGridPoint);
    }
  }
  return evidence.Conclude();
}

}  // namespace hproc::controller
