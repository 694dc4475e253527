// The two pictures of a study as SVG: the floor plane and the Pareto plot. Glyphs differ in shape, not only in colour;
// colours come from the page's style (web/document.cc).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "controller/plan_space.h"
#include "controller/study.h"

namespace hproc::web {

// strict up, lazy to the right: what is predicted to fit, what was seen to be garbage, every trial where it stands. Empty
// for a model without routed experts.
std::string PlaneSvg(const controller::Study& study, const controller::PlanSpace& space,
                     const std::vector<controller::Trial>& trials, std::optional<int> recommended);

// Accuracy with its interval over measured bytes, of the trials that answered all questions; the area of a glyph goes with
// the decode rate. Empty where there is none.
std::string ParetoSvg(const std::vector<controller::Trial>& trials, std::optional<int> recommended);

}  // namespace hproc::web
