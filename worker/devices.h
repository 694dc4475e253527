// Which device each rank of tensor parallelism has.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace hproc::worker {

// By rank: "cpu" is every rank's, "cuda" the first `world_size` devices, "cuda:2,5" device 2 for rank 0 and 5 for rank 1. One
// rank has what is named. The error says how many devices are named for how many ranks, or that one is named twice.
Result<std::vector<std::string>> DevicesOf(const std::string& devices, int world_size);

}  // namespace hproc::worker
