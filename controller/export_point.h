// The operating point of one trial of a stored study, with its evidence put together.
#pragma once

#include <vector>

#include "base/result.h"
#include "controller/operating_point.h"
#include "controller/store.h"
#include "controller/study.h"

namespace hproc::controller {

// Whether a trial can be exported at all: a point, complete, with all questions answered.
bool IsExportable(const Trial& trial);

// Of trials[number], dated now. The questions are read again for their order; the error says which of the store, the
// questions' files or the trial is at fault.
Result<OperatingPoint> ExportPoint(Store& store, const Study& study, const std::vector<Trial>& trials, int number);

}  // namespace hproc::controller
