// Unicode normalization form C.
#pragma once

#include <string>
#include <string_view>

namespace hproc::worker {

// `text` (valid UTF-8) in NFC as of Unicode 9.0, which is what the tokenizers library does, whatever
// the installed utf8proc knows beyond. Linear but for the sorting of runs of combining marks, and
// that is n log n: utf8proc's own is quadratic, which a long run of marks would turn into a hang.
std::string NormalizeNfc(std::string_view text);

}  // namespace hproc::worker
