// What the browser may ask of a new search, as the arguments of `hproc tune`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "web/model_roots.h"

namespace hproc::web {

// `body`: one JSON object with "model" and "memory", and any of tune's other settings under its option's name with _ for -
// ("batch", "strict_min", "baseline_int4", …). "model", "tasks" and "shots_file" are resolved within the roots. Returns the
// arguments behind "tune", as --name=value, so that no value is taken for an option. The error names the key. Whether the
// numbers make sense is left to tune, whose message comes back all the same.
Result<std::vector<std::string>> StartArguments(std::string_view body, const ModelRoots& roots);

}  // namespace hproc::web
