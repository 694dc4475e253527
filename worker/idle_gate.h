// The idle gate: a trial begins once its device is as free as it is when nothing runs.
//
// What a neighbour holds is not the model's to answer for: a load that fails for want of it would be taken for the edge of
// what fits. So memory is looked at before anything is allocated, and waited for.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/function_ref.h"

namespace hproc::worker {

// Bytes that `device` ("cpu") has free now, as far as the system says: on the host what it could hand out without
// swapping. Nothing where it does not say.
std::optional<int64_t> FreeBytesOf(const std::string& device);

// Looks until `needed` bytes are free or `patience` is over; between two looks calls `waiting` and sleeps a little. What was
// free in the last look; nothing where `look` cannot tell, which nobody waits for.
std::optional<int64_t> WaitForFreeBytes(int64_t needed, std::chrono::milliseconds patience,
                                        FunctionRef<std::optional<int64_t>()> look, FunctionRef<void()> waiting);

}  // namespace hproc::worker
