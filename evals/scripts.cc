#include "evals/scripts.h"

#include <algorithm>
#include <iterator>

#include "base/utf8.h"

namespace hproc::evals {
namespace {

constexpr std::array<std::string_view, kScriptCount> kNames{
    "latin",           "greek",  "cyrillic", "hebrew", "arabic", "indic",
    "southeast_asian", "hangul", "kana",     "han",    "other",  "private_use"};

struct Block {
  char32_t first;
  char32_t last;
  std::optional<Script> script;
};

// Ascending. Between the listed blocks lie letters of scripts that nobody told apart here: kOther.
constexpr Block kBlocks[] = {
    {0x0000, 0x0040, std::nullopt},
    {0x0041, 0x005A, Script::kLatin},
    {0x005B, 0x0060, std::nullopt},
    {0x0061, 0x007A, Script::kLatin},
    {0x007B, 0x00A9, std::nullopt},
    {0x00AA, 0x00AA, Script::kLatin},
    {0x00AB, 0x00B9, std::nullopt},
    {0x00BA, 0x00BA, Script::kLatin},
    {0x00BB, 0x00BF, std::nullopt},
    {0x00C0, 0x00D6, Script::kLatin},
    {0x00D7, 0x00D7, std::nullopt},  // ×
    {0x00D8, 0x00F6, Script::kLatin},
    {0x00F7, 0x00F7, std::nullopt},  // ÷
    {0x00F8, 0x02AF, Script::kLatin},
    {0x02B0, 0x036F, std::nullopt},  // modifiers and combining marks
    {0x0370, 0x03FF, Script::kGreek},
    {0x0400, 0x052F, Script::kCyrillic},
    {0x0590, 0x05FF, Script::kHebrew},
    {0x0600, 0x06FF, Script::kArabic},
    {0x0750, 0x077F, Script::kArabic},
    {0x08A0, 0x08FF, Script::kArabic},
    {0x0900, 0x0DFF, Script::kIndic},
    {0x0E00, 0x0EFF, Script::kSoutheastAsian},
    {0x1000, 0x109F, Script::kSoutheastAsian},
    {0x1100, 0x11FF, Script::kHangul},
    {0x1780, 0x17FF, Script::kSoutheastAsian},
    {0x1AB0, 0x1AFF, std::nullopt},
    {0x1C80, 0x1C8F, Script::kCyrillic},
    {0x1D00, 0x1DBF, Script::kLatin},
    {0x1DC0, 0x1DFF, std::nullopt},
    {0x1E00, 0x1EFF, Script::kLatin},
    {0x1F00, 0x1FFF, Script::kGreek},
    {0x2000, 0x2BFF, std::nullopt},  // punctuation, currency, arrows, mathematics, boxes, symbols
    {0x2E00, 0x2E7F, std::nullopt},
    {0x2E80, 0x2FDF, Script::kHan},  // radicals
    {0x2FF0, 0x303F, std::nullopt},  // ideographic punctuation
    {0x3040, 0x30FF, Script::kKana},
    {0x3130, 0x318F, Script::kHangul},
    {0x31F0, 0x31FF, Script::kKana},
    {0x3200, 0x33FF, std::nullopt},  // enclosed and squared
    {0x3400, 0x4DBF, Script::kHan},
    {0x4DC0, 0x4DFF, std::nullopt},
    {0x4E00, 0x9FFF, Script::kHan},
    {0xA720, 0xA7FF, Script::kLatin},
    {0xA960, 0xA97F, Script::kHangul},
    {0xAB30, 0xAB6F, Script::kLatin},
    {0xAC00, 0xD7FF, Script::kHangul},
    {0xE000, 0xF8FF, Script::kPrivateUse},
    {0xF900, 0xFAFF, Script::kHan},
    {0xFB00, 0xFB06, Script::kLatin},  // ligatures
    {0xFB1D, 0xFB4F, Script::kHebrew},
    {0xFB50, 0xFDFF, Script::kArabic},
    {0xFE00, 0xFE6F, std::nullopt},  // variation selectors, vertical and small forms
    {0xFE70, 0xFEFE, Script::kArabic},
    {0xFEFF, 0xFF20, std::nullopt},
    {0xFF21, 0xFF3A, Script::kLatin},  // full width
    {0xFF3B, 0xFF40, std::nullopt},
    {0xFF41, 0xFF5A, Script::kLatin},
    {0xFF5B, 0xFF65, std::nullopt},
    {0xFF66, 0xFF9F, Script::kKana},
    {0xFFA0, 0xFFDC, Script::kHangul},
    {0xFFE0, 0xFFFF, std::nullopt},
    {0x1D000, 0x1D7FF, std::nullopt},  // music, mathematics
    {0x1F000, 0x1FAFF, std::nullopt},  // emoji, games, symbols
    {0x20000, 0x3FFFF, Script::kHan},
    {0xE0000, 0xE0FFF, std::nullopt},
    {0xF0000, 0x10FFFF, Script::kPrivateUse},
};

bool IsControl(char32_t c) {
  return (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || (c >= 0x7F && c <= 0x9F);
}

}  // namespace

std::string_view ScriptName(Script script) { return kNames[static_cast<size_t>(script)]; }

std::optional<Script> ScriptFromName(std::string_view name) {
  const auto it = std::find(kNames.begin(), kNames.end(), name);
  if (it == kNames.end()) return std::nullopt;
  return static_cast<Script>(it - kNames.begin());
}

std::optional<Script> ScriptOf(char32_t c) {
  const auto* block =
      std::upper_bound(std::begin(kBlocks), std::end(kBlocks), c,
                       [](char32_t value, const Block& b) { return value <= b.last; });
  if (block == std::end(kBlocks) || c < block->first) return Script::kOther;
  return block->script;
}

CharacterCounts CountCharacters(std::string_view text) {
  CharacterCounts counts;
  while (!text.empty()) {
    const Utf8Char first = DecodeUtf8(text, 0);
    text.remove_prefix(first.bytes);
    ++counts.total;
    counts.replacement += first.code_point == 0xFFFD ? 1 : 0;
    counts.control += IsControl(first.code_point) ? 1 : 0;
    if (const std::optional<Script> script = ScriptOf(first.code_point)) {
      ++counts.letters;
      ++counts.by_script[static_cast<size_t>(*script)];
    }
  }
  return counts;
}

}  // namespace hproc::evals
