// Tokens that are found in the text before anything else is done with it ("<|im_end|>").
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/function_ref.h"
#include "base/result.h"
#include "worker/tokenizer_file.h"

namespace hproc::worker {

// A set of such tokens. At each place the longest one that fits is taken, from left to right (what
// the tokenizers library calls leftmost-longest). Immutable; safe from several threads at once.
class AddedTokens {
 public:
  AddedTokens();

  // `content` is what is looked for, not empty; the flags and the id are the token's. False: that
  // content is there already.
  bool Add(std::string_view content, const AddedTokenSpec& token);
  bool empty() const { return tokens_.empty(); }

  // Cuts `text` (valid UTF-8) into tokens and what lies between them, in order: piece(id, "") for a
  // token, piece(kText, part) for a part, never empty. lstrip and rstrip let a token take the white
  // space at its side; single_word lets it pass where a word character touches it. Ends with the
  // first error of `piece`.
  static constexpr int32_t kText = -1;
  Result<void> Split(std::string_view text,
                     FunctionRef<Result<void>(int32_t id, std::string_view part)> piece) const;

 private:
  struct Token {
    int32_t id = 0;
    size_t bytes = 0;
    bool single_word = false;
    bool lstrip = false;
    bool rstrip = false;
  };

  // The longest token that begins at `at`; nullptr: none.
  const Token* LongestAt(std::string_view text, size_t at) const;
  bool TouchesWord(std::string_view text, size_t begin, size_t end) const;

  // A trie over bytes: node 0 is the root, an edge is keyed by node * 256 + byte.
  std::unordered_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> token_at_node_;  // index into tokens_; -1: none ends here
  std::vector<bool> may_begin_;         // by byte: a way to pass over most of a text quickly
  std::vector<Token> tokens_;
};

}  // namespace hproc::worker
