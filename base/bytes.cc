#include "base/bytes.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace hproc {

Result<int64_t> ParseBytes(std::string_view text) {
  const Error bad{"'" + std::string(text) + "' is not a size: expected something like 7MiB, 96GB or 1.5GiB"};
  double number = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (parsed.ec != std::errc() || !std::isfinite(number)) return bad;
  std::string suffix(parsed.ptr, end);
  std::erase(suffix, ' ');
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  double unit = 1;
  if (!suffix.empty() && suffix != "b") {
    constexpr std::string_view kPrefixes = "kmgt";
    const size_t power = kPrefixes.find(suffix[0]);
    const std::string_view rest = std::string_view(suffix).substr(1);
    if (power == std::string_view::npos || !(rest.empty() || rest == "ib" || rest == "b" || rest == "i")) return bad;
    unit = std::pow(rest == "b" ? 1000.0 : 1024.0, static_cast<double>(power + 1));
  }
  const double bytes = std::floor(number * unit);
  if (bytes < 1) return Error{"'" + std::string(text) + "' is not a size: at least one byte is needed"};
  if (bytes > std::pow(2.0, 60)) return Error{"'" + std::string(text) + "' is more memory than any device has"};
  return static_cast<int64_t>(bytes);
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (std::abs(value) >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  char text[48];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.2f %s", value, kUnits[unit]);
  return text;
}

}  // namespace hproc
