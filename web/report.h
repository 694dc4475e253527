// The report of a study: what it found, how, and how sure that is, as one document for people.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "controller/outcome_json.h"
#include "controller/plan_space.h"
#include "controller/store.h"
#include "web/document.h"

namespace hproc::web {

struct ReportInput {
  const controller::Study& study;
  const std::vector<controller::Trial>& trials;
  const controller::PlanSpace& space;
  controller::StudyOutcome outcome;
  bool finished = false;   // false: the search would go on; the outcome holds what is known so far
  std::string plane_text;  // the floor plane drawn in text, for Markdown
};

// Reads the transcripts of what was called garbage from `store`; errors are the store's.
Result<Document> MakeReport(controller::Store& store, const ReportInput& input);

// The report of a study as it stands: its outcome, or what is known so far, worked out anew.
Result<Document> ReportOf(controller::Store& store, const controller::Study& study,
                          const std::vector<controller::Trial>& trials, const controller::PlanSpace& space);

}  // namespace hproc::web
