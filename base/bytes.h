// Sizes as people write and read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hproc {

// "7MiB", "96GB", "1.5 GiB", "123456" (bytes). Binary (KiB, MiB, GiB, TiB) and decimal (kB, MB, GB, TB) suffixes, case
// ignored; K, M, G, T alone are binary, as in most memory tools. At least 1 byte, at most 2^60.
Result<int64_t> ParseBytes(std::string_view text);

// "7.42 MiB": three significant digits or more, binary units.
std::string FormatBytes(int64_t bytes);

}  // namespace hproc
