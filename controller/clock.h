// Wall-clock time as the store writes it. Injected, so that tests and replays know what time it is.
#pragma once

#include <chrono>
#include <functional>
#include <string>

namespace hproc::controller {

using Clock = std::function<std::chrono::system_clock::time_point()>;

Clock SystemClock();

// RFC 3339 in UTC, to the millisecond: "2026-11-23T18:30:38.042Z". Sorts as text. Years 0 to 9999.
std::string FormatUtc(std::chrono::system_clock::time_point time);

}  // namespace hproc::controller
