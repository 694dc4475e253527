#include "worker/normalize.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"

namespace hproc::worker {
namespace {

constexpr utf8proc_option_t kDecompose =
    static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
constexpr utf8proc_option_t kCompose =
    static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);

// Characters that NFC keeps, that begin a new sequence and never join the one before (they may take
// marks that follow): those below the combining marks, and the common ideographs, which most text
// consists of. U+11A7 because utf8proc before 2.11.2 takes it for a trailing consonant and drops
// it.
bool IsPlain(char32_t c) { return c < 0x300 || (c >= 0x3400 && c <= 0x9FFF) || c == 0x11A7; }

// What Unicode gave a combining class or a canonical composition after version 9.0, up to 15.1. The
// tokenizers library normalizes by the tables of 9.0, where these are nothing yet: they stay where
// they are, and nothing is reordered over them or composed with them. Models were trained on that.
constexpr std::pair<char32_t, char32_t> kNewerThanUnicode9[] = {
    {0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

bool IsInert(char32_t c) {
  const auto* range = std::ranges::lower_bound(kNewerThanUnicode9, c, {},
                                               &std::pair<char32_t, char32_t>::second);
  return range != std::end(kNewerThanUnicode9) && range->first <= c;
}

int CombiningClass(int32_t c) { return utf8proc_get_property(c)->combining_class; }

void AppendDecomposed(char32_t c, std::vector<int32_t>& out) {
  int32_t parts[4];  // no canonical decomposition is longer
  int boundary = 0;
  const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<int32_t>(c), parts,
                                                         std::size(parts), kDecompose, &boundary);
  HPROC_CHECK(count >= 0 && count <= static_cast<utf8proc_ssize_t>(std::size(parts)),
              "canonical decomposition");
  out.insert(out.end(), parts, parts + count);
}

// Canonical ordering (Unicode Standard, D109): marks between two starters by their class, equal
// ones as they came.
void Order(std::vector<int32_t>& chars) {
  for (size_t begin = 0; begin < chars.size(); ++begin) {
    if (CombiningClass(chars[begin]) == 0) continue;
    size_t end = begin + 1;
    while (end < chars.size() && CombiningClass(chars[end]) != 0) ++end;
    std::stable_sort(chars.begin() + static_cast<std::ptrdiff_t>(begin),
                     chars.begin() + static_cast<std::ptrdiff_t>(end),
                     [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end;  // a starter, or the end
  }
}

}  // namespace

std::string NormalizeNfc(std::string_view text) {
  std::string result;
  size_t copied = 0;      // text before this is in `result`
  size_t last_plain = 0;  // where the last plain character begins
  std::vector<int32_t> chars;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    if (IsPlain(c.code_point)) {
      last_plain = at;
      at += c.bytes;
      continue;
    }
    if (IsInert(c.code_point)) {
      last_plain = at += c.bytes;  // the next sequence begins behind it
      continue;
    }
    // From the plain character before, which this one may combine with, to the next.
    result += text.substr(copied, last_plain - copied);
    chars.clear();
    for (copied = last_plain; copied < text.size();) {
      const Utf8Char next = DecodeUtf8(text, copied);
      if (copied > at && (IsPlain(next.code_point) || IsInert(next.code_point))) break;
      AppendDecomposed(next.code_point, chars);
      copied += next.bytes;
    }
    Order(chars);
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        chars.data(), static_cast<utf8proc_ssize_t>(chars.size()), kCompose);
    HPROC_CHECK(count >= 0, "canonical composition");
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      AppendUtf8(result, static_cast<char32_t>(chars[static_cast<size_t>(i)]));
    }
    at = last_plain = copied;
  }
  if (copied == 0) return std::string(text);
  return result += text.substr(copied);
}

}  // namespace hproc::worker
