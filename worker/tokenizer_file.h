// tokenizer.json, read and checked: what it asks for in plain structs, or an error that says what
// is wrong with it or what of it is not supported. Byte-level BPE is; see worker/tokenizer.h for
// the whole list.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace hproc::worker {

inline constexpr int64_t kMaxTokenizerBytes = int64_t{128} << 20;  // the largest in use have 35 MB
inline constexpr int32_t kMaxTokenId = (1 << 22) - 1;
inline constexpr size_t kMaxAddedTokenBytes = 4096;

struct AddedTokenSpec {
  int32_t id = 0;
  std::string content;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;  // looked for in the normalized text, not in the raw one
  bool special = false;
};

struct PreTokenizerStep {
  enum class Kind {
    kSplit,      // cut at the matches of `pattern`
    kByteLevel,  // bytes to their characters, perhaps cut by GPT-2's pattern; always the last
  };
  Kind kind = Kind::kSplit;
  std::string pattern;       // kSplit: an Oniguruma pattern, or plain text to look for
  bool is_literal = false;   // kSplit: plain text
  bool keep_matches = true;  // kSplit: of what is cut, which parts stay (Isolated: both)
  bool keep_between = true;
  bool add_prefix_space = false;  // kByteLevel: a space in front of pieces that have none there
  bool use_regex = false;         // kByteLevel
};

struct TokenizerSpec {
  std::vector<AddedTokenSpec> added_tokens;  // distinct contents and ids, in the file's order
  bool nfc = false;
  std::vector<PreTokenizerStep> pre_tokenizer;  // the last one is the only kByteLevel
  bool ignore_merges = false;  // a pre-token that is a token as a whole is that token
  // As the file writes them, in the byte-level alphabet; ids distinct.
  std::vector<std::pair<std::string, int32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
};

// The messages do not name the file; the caller knows it.
Result<TokenizerSpec> ParseTokenizerJson(std::string_view json);

}  // namespace hproc::worker
