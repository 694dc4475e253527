// Evidence: what the trials of a study prove, whichever strategy asked for them. Used by the strategies alone.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "controller/search.h"

namespace hproc::controller {

bool IsInFlight(const TrialFact& fact);
bool IsGarbage(const TrialFact& fact);
bool IsOutOfMemory(const TrialFact& fact);
bool IsSensible(const TrialFact& fact);  // the probes were passed

// All three outlive the evidence. O(facts^2) to make; thread-compatible.
//
// A run that fitted is proof: every phase was carried out under the cap. A refusal may be the work of a neighbour or a
// measuring error. So where the two contradict each other the refusal is an alarm and moves nothing, and where only the
// prediction contradicts a refusal, it takes a second one, of another plan, to move it.
class Evidence {
 public:
  Evidence(const SearchSpec& spec, const PlanSpace& space, std::span<const TrialFact> facts);

  const SearchSpec& spec() const { return spec_; }
  const PlanSpace& space() const { return space_; }
  std::span<const TrialFact> facts() const { return facts_; }

  // The most that PlanSpace::NeededBytes may say of a point for it to fit, as far as runs and refusals tell.
  int64_t limit_bytes() const { return limit_; }
  // One line for each contradiction between trials.
  const std::vector<std::string>& alarms() const { return alarms_; }

  // The trial of the plan that `at` resolves to; nullptr where there is none.
  const TrialFact* Find(FloorPair at) const;
  // The best trial that may be recommended; nullptr while there is none.
  const TrialFact* Best() const;
  // Candidates whose output was looked at, or was to be: one that did not fit taught the prediction and nothing else.
  int Looked() const;
  // Whether output at `at` is garbage, as far as trials tell: a sensible trial speaks for all points above it, a garbage
  // one for all below. Where they contradict each other it is.
  std::optional<bool> KnownGarbage(FloorPair at) const;

  // Why no trial of the study can be believed; none where they can.
  std::optional<std::string> Fault() const;
  // The end of a search that has no more questions: the best trial, or what forbids every point.
  SearchDone Conclude() const;
  SearchDone Faulty(std::string what) const;

  std::string Describe(FloorPair at) const;  // "(0.99, 0.95)"

 private:
  void FindContradictions();
  int64_t Need(const TrialFact& fact) const;
  int64_t Limit() const;
  bool Acceptable(const TrialFact& fact) const;

  const SearchSpec& spec_;
  const PlanSpace& space_;
  std::span<const TrialFact> facts_;
  std::vector<const TrialFact*> refusals_;  // that no run contradicts
  std::vector<std::string> alarms_;
  const TrialFact* largest_ = nullptr;  // of those that ran, the one that needs the most
  int64_t limit_ = 0;
};

// The strategies. Each is asked after faults were ruled out.
SearchStep NextPredictStep(const Evidence& evidence);
SearchStep NextWalkStep(const Evidence& evidence);
SearchStep NextGridStep(const Evidence& evidence);

}  // namespace hproc::controller
