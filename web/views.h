// JSON views of a study: what `--json` prints and the page will ask for. Read from the store's structs, never written
// back. A figure that was not measured, or is not finite, is null; an early-stopped rate is never shown as accuracy.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "controller/comparison.h"
#include "controller/plan_space.h"
#include "controller/search.h"
#include "controller/study.h"
#include "evals/gsm8k.h"

namespace hproc::web {

// One row a study: name, state, model, cap, created, trials by state, the outcome when there is one.
std::string StudiesView(const std::vector<controller::Study>& studies,
                        const std::vector<std::vector<controller::Trial>>& trials);

// One study: its row, its whole spec, what it was measured to need beside the weights, and whether it has routed experts (none:
// not measured, or its rate table cannot be read).
std::string StudyView(const controller::Study& study, const std::vector<controller::Trial>& trials,
                      std::optional<bool> has_lazy);

// One row a trial, without plans and answers.
std::string TrialsView(const std::vector<controller::Trial>& trials);

// The same as CSV (RFC 4180), a head first. Text that a spreadsheet would take for a formula begins with an apostrophe.
std::string TrialsCsv(const std::vector<controller::Trial>& trials);

// Two trials on the same questions: the row of each, and what only one of them got right.
std::string ComparisonView(const controller::Trial& first, const controller::Trial& second,
                           const controller::PairedOutcome& paired);

// Questions with their gold answers, by index in the task file.
std::string QuestionsView(const evals::Gsm8kTask& task);

// The floors that there are, lowest first: what the plane's axes count in.
std::string LadderView();

// One trial with everything: plan, ledger, phases, attempts, answers.
std::string TrialView(const controller::Trial& trial, const std::vector<controller::Answer>& answers);

// The floor plane: bounds, the part worth showing, the predicted staircase, every trial as a point with its verdict, what is known of both
// frontiers, and the Pareto frontier of what was fully evaluated.
std::string FrontierView(const controller::Study& study, const controller::PlanSpace& space,
                         const std::vector<controller::Trial>& trials);

// What `plan` prints: bytes, bits and cosines by family, and by tensor.
std::string PlanView(const controller::PlannedPoint& point, std::span<const worker::LedgerLine> ledger);

}  // namespace hproc::web
