// What the terminal shows of a study.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "controller/outcome_json.h"
#include "controller/study.h"

namespace hproc::controller {

// A table of the trials, one line each.
std::string TrialsText(const std::vector<Trial>& trials, std::optional<int> recommended);

// The recommendation with its evidence, or why there is none.
std::string OutcomeText(const Study& study, const std::vector<Trial>& trials, const StudyOutcome& outcome, bool has_lazy);

}  // namespace hproc::controller
