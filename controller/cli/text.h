// What the terminal shows of a study.
#pragma once

#include <cstdint>
#include <string>

#include "controller/outcome_json.h"
#include "controller/plan_space.h"
#include "controller/search.h"
#include "controller/study.h"

namespace hproc::controller {

// The floor plane: strict up, lazy to the right, what is predicted to fit, and every trial where it stands.
std::string PlaneText(const Study& study, const PlanSpace& space, const std::vector<Trial>& trials,
                      std::optional<int> recommended);

// A table of the trials, one line each.
std::string TrialsText(const std::vector<Trial>& trials, std::optional<int> recommended);

// The recommendation with its evidence, or why there is none.
std::string OutcomeText(const Study& study, const std::vector<Trial>& trials, const StudyOutcome& outcome, bool has_lazy);

}  // namespace hproc::controller
