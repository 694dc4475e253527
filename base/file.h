// Whole files in and out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hproc {

// The whole file; an error that names it when it cannot be read or is larger than max_bytes.
Result<std::string> ReadFile(const std::filesystem::path& path, int64_t max_bytes);

// Writes to a temporary neighbour, syncs, renames: a reader sees the old file or the new one, and a full disk or a
// kill leaves the old one.
Result<void> WriteFileAtomically(const std::filesystem::path& path, std::string_view content);

}  // namespace hproc
