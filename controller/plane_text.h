// The floor plane drawn in text: for the terminal and for the report's Markdown.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "controller/plan_space.h"
#include "controller/study.h"

namespace hproc::controller {

// strict up, lazy to the right, what is predicted to fit, and every trial where it stands.
std::string PlaneText(const Study& study, const PlanSpace& space, const std::vector<Trial>& trials,
                      std::optional<int> recommended);

}  // namespace hproc::controller
