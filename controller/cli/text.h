// Words and figures for people.
#pragma once

#include <cstdint>
#include <string>

#include "controller/outcome_json.h"
#include "controller/plan_space.h"
#include "controller/search.h"
#include "controller/study.h"

namespace hproc::controller {

// "(0.985, 0.93)"; "0.985" where there is no routed family.
std::string FloorsText(const quant::Floors& floors, bool has_lazy = true);

// "0.7900 (1042 of 1319; 95 % interval 0.7672 to 0.8112)"; says so where the questions were not all asked.
std::string AccuracyText(const AccuracyTally& tally);

// "complete: 1042 of 1319 right", "out_of_memory at cache: keys of layer 5, short 12.3 KiB", …: how a trial ended.
std::string VerdictText(const Trial& trial);

// The floor plane: strict up, lazy to the right, what is predicted to fit, and every trial where it stands.
std::string PlaneText(const Study& study, const PlanSpace& space, const std::vector<Trial>& trials,
                      std::optional<int> recommended);

// A table of the trials, one line each.
std::string TrialsText(const std::vector<Trial>& trials, std::optional<int> recommended);

// The recommendation with its evidence, or why there is none.
std::string OutcomeText(const Study& study, const std::vector<Trial>& trials, const StudyOutcome& outcome, bool has_lazy);

}  // namespace hproc::controller
