// The words in which people are told of floors, answers, rates and verdicts; the same in the terminal and in reports.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "controller/study.h"

namespace hproc::controller {

// "(0.985, 0.93)"; "0.985" where there is no routed family.
std::string FloorsText(const quant::Floors& floors, bool has_lazy = true);

// Of a trial: "-" for a baseline, which answers to no floor.
std::string FloorsText(const Trial& trial, bool has_lazy = true);

// "16 bits", "INT4 g128", "INT4 pruned": what a baseline is called beside the recommended point.
std::string_view BaselineName(TrialKind kind);

// "0.7900 (1042 of 1319; 95 % interval 0.7672 to 0.8112)"; says so where the questions were not all asked.
std::string AccuracyText(const AccuracyTally& tally);

// "1042 of 1319 right", "out_of_memory at cache, short 12.3 KiB: keys of layer 5", …: how a trial ended, in one line.
std::string VerdictText(const Trial& trial);

// "2310 ± 12 tok/s": mean and standard deviation over the repetitions; says so where it was not measured.
std::string RateText(const std::vector<evals::ThroughputSample>& samples, evals::ThroughputKind kind);

}  // namespace hproc::controller
