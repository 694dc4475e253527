// HPROC_CHECK: a condition that only a bug can break. Aborts with the place and the reason; stays on in Release.
#pragma once

#include <string_view>

namespace hproc {

// Writes "file:line: check failed: condition (detail)" to stderr and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, std::string_view detail);

}  // namespace hproc

// A macro because the text of the condition belongs into the message. `detail` is evaluated only on failure.
#define HPROC_CHECK(condition, detail) \
  ((condition) ? static_cast<void>(0) : ::hproc::CheckFailed(__FILE__, __LINE__, #condition, (detail)))
