// The H-Process as a pure function: what is known of a study's trials in, the next trial or the recommendation out.
//
//   lazy ▲                     The predicted fit frontier falls from upper left to lower right: every point
//        │ fits  ╲  OOM        on it uses the whole budget. A candidate is a point on it.
//        │    c1  ╲
//        │ g    c0 x           1. x: the next rungs above c0, the point on it that the cosines like best: the boundary
//        │ ░░     c2╲             seen from outside. Loads alone, the first facts of a study.
//        │ ░░░░░     ╲         2. c0 itself: load, probe, ask all questions.
//        └──────────────▶      3. g: from the lower bounds towards c0, where does garbage begin?
//                   strict     4. c1, c2, …: to both sides of the best so far, each compared with it question by
//                                 question (controller/screening.h); then nearer ones. At last the edge of the best.
//
// Nothing is remembered between calls: the same trials give the same next step, so that a study goes on after any
// interruption as if there had been none. Only what was decided by counting is looked at (states, answers), never a
// time, with one exception: of two points that answer equally well the faster one wins where the repetitions tell them
// apart.
//
// It may be asked while trials are in flight, for another one to run beside them: they are passed as they are, waiting or
// running, and count as neither result. Their plans are not asked for again, and what they may use up (candidates, loads)
// is used up. A question whose answer decides what to ask next is not guessed at: garbage is bisected one load after the
// other, beside candidates, and a walk takes one step after the other. Where nothing is left to ask before one of them has
// ended, the step is SearchWait. The order in which they end changes what is looked at in between, never what is proved.
//
// The proxy that steers is the mean deficit 1 - cosine of each family, the strict one counted three times: a token passes
// every strict matrix, the mixer's and the shared expert's in turn, while routed experts' errors are averaged over those
// it takes. Of the weights 1 to 4, three put ten points of the embedded model (its dev set) in the order of their
// accuracy with the fewest exchanges. It chooses where to look first, and nothing else; benches decide.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "controller/plan_space.h"
#include "controller/study.h"

namespace hproc::controller {

// predict walks the frontier that the rate table predicts. walk and grid do without the table, on a lattice of ten floors
// each way: walk goes down the staircase between what fits and what does not (load, look, move), grid looks at every point.
enum class Strategy { kPredict, kWalk, kGrid };
std::string_view StrategyName(Strategy strategy);  // "predict", "walk", "grid"
std::optional<Strategy> StrategyFromName(std::string_view name);

struct SearchSpec {
  Strategy strategy = Strategy::kPredict;
  FloorPair lowest;            // the operator's bounds
  FloorPair highest;
  int64_t budget_bytes = 0;    // cap less the headroom asked for
  double min_accuracy = 0;     // 0: no such bound
  int max_candidates = 5;      // of predict, as the next two
  int max_garbage_loads = 6;
  bool judges = true;          // false: points are loaded and timed, what they say is not looked at
  bool trust_plan = false;     // believe the prediction where it says that nothing, or everything, fits
};

// How far a trial goes.
enum class Depth {
  kLoad,      // load, cache, warmup
  kProbe,     // and the garbage probes
  kEvaluate,  // and the questions, all of them unless the screening drops it; then throughput
};

// Why a trial is wanted; the words of the store.
enum class Purpose {
  kCandidate,       // may be recommended
  kOutsideStrict,   // the next rung of the strict floor, expected not to fit
  kOutsideLazy,
  kGarbageEdge,     // looks for the garbage boundary
  kLowestFits,      // whether anything fits at all; may be recommended where it does
  kWalkStep,        // may be recommended too
  kGridPoint,
};
std::string_view PurposeName(Purpose purpose);  // "candidate", "outside_strict", …
Depth DepthOf(Purpose purpose);
Depth DepthOf(std::string_view purpose);  // by its word; an unknown one: kLoad

// What the search knows of one trial; of one in flight no more than what was asked for.
struct TrialFact {
  int number = 0;
  FloorPair at;
  std::string digest;
  TrialState state = TrialState::kWaiting;  // waiting and running: in flight
  Reason reason = Reason::kNone;
  Depth depth = Depth::kLoad;      // how far it was to go
  int64_t predicted_bytes = 0;
  int64_t measured_bytes = 0;      // held once loaded; 0: not known
  int64_t peak_bytes = 0;          // the most held at any time; 0: not known
  int64_t short_bytes = 0;         // of an out_of_memory
  AccuracyTally accuracy;
  double decode_tok_per_s = 0;     // mean and standard error of the long decode; 0: not measured
  double decode_error = 0;
  std::string message;             // of the verdict
};

struct RunTrial {
  FloorPair at;
  Depth depth = Depth::kLoad;
  Purpose purpose = Purpose::kCandidate;
  std::optional<int> incumbent;  // trial to compare with, question by question
};

enum class Bound { kNone, kOutOfMemory, kGarbageOutput, kAccuracy };
std::string_view BoundName(Bound bound);  // "none", "out_of_memory", "garbage_output", "accuracy"

struct SearchDone {
  std::optional<int> recommended;  // trial number
  // What keeps floors from being higher or, without a recommendation, what forbids every point.
  Bound bound = Bound::kNone;
  std::string why;                // one line for people
  std::optional<std::string> fault;  // the study cannot be believed: a loader fault, nothing could be run
  std::vector<std::string> alarms;   // trials that contradict each other, one line each; none of them moved a boundary
};

// Ask again when a trial in flight has ended.
struct SearchWait {};

using SearchStep = std::variant<RunTrial, SearchDone, SearchWait>;

SearchStep NextStep(const SearchSpec& spec, const PlanSpace& space, std::span<const TrialFact> facts);

// What the facts come to if the search ended with them; trials in flight say nothing.
SearchDone ConcludeNow(const SearchSpec& spec, const PlanSpace& space, std::span<const TrialFact> facts);

// The corners of the predicted staircase, by strict floor, lowest first: no other point that fits has both floors as
// high. Empty where nothing fits.
std::vector<FloorPair> PredictedFrontier(const SearchSpec& spec, const PlanSpace& space, int64_t budget_bytes);

// Trial numbers of the complete trials with all questions answered that no other dominates in accuracy, decode rate and
// bytes. O(n^2).
std::vector<int> ParetoFrontier(std::span<const TrialFact> facts);

// The order of preference: more right answers; then the faster, where the difference is more than twice its error; then
// fewer bytes; then the higher floors.
bool Better(const TrialFact& a, const TrialFact& b);

}  // namespace hproc::controller
