// What a study comes to, as the JSON that `tune --json` prints and the store keeps.
#pragma once

#include <string>
#include <vector>

#include "controller/search.h"
#include "controller/study.h"

namespace hproc::controller {

// One object: recommended {…} or null, bound, why, fault, loads, trials, study. A figure that was not measured is null.
std::string OutcomeJson(const Study& study, const std::vector<Trial>& trials, const SearchDone& done);

}  // namespace hproc::controller
