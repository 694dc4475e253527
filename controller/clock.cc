#include "controller/clock.h"

#include <array>
#include <cstdio>
#include <ctime>

namespace hproc::controller {

Clock SystemClock() {
  return [] { return std::chrono::system_clock::now(); };
}

std::string FormatUtc(std::chrono::system_clock::time_point time) {
  const auto ms = std::chrono::floor<std::chrono::milliseconds>(time);
  const auto whole =
      std::chrono::floor<std::chrono::seconds>(ms);  // towards the past, before 1970 too
  const std::time_t seconds = std::chrono::system_clock::to_time_t(whole);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::array<char, 32> date{};
  std::strftime(date.data(), date.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "%s.%03dZ", date.data(),
                static_cast<int>((ms - whole).count()));
  return text.data();
}

}  // namespace hproc::controller
