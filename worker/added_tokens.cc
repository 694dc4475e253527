#include "worker/added_tokens.h"

#include <algorithm>

#include "base/utf8.h"
#include "worker/unicode_sets.h"

namespace hproc::worker {
namespace {

// The character that ends right before `at` > 0; `text` is valid UTF-8.
Utf8Char CharBefore(std::string_view text, size_t at) {
  size_t begin = at - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return DecodeUtf8(text, begin);
}

}  // namespace

AddedTokens::AddedTokens() : token_at_node_(1, -1), may_begin_(256, false) {}

bool AddedTokens::Add(std::string_view content, const AddedTokenSpec& token) {
  uint32_t node = 0;
  for (const char byte : content) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<unsigned char>(byte);
    const auto [edge, is_new] =
        edges_.try_emplace(key, static_cast<uint32_t>(token_at_node_.size()));
    if (is_new) token_at_node_.push_back(-1);
    node = edge->second;
  }
  if (token_at_node_[node] >= 0) return false;
  token_at_node_[node] = static_cast<int32_t>(tokens_.size());
  may_begin_[static_cast<unsigned char>(content[0])] = true;
  tokens_.push_back({token.id, content.size(), token.single_word, token.lstrip, token.rstrip});
  return true;
}

const AddedTokens::Token* AddedTokens::LongestAt(std::string_view text, size_t at) const {
  const Token* longest = nullptr;
  uint32_t node = 0;
  for (; at < text.size(); ++at) {
    const auto edge = edges_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[at]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_at_node_[node] >= 0) longest = &tokens_[static_cast<size_t>(token_at_node_[node])];
  }
  return longest;
}

bool AddedTokens::TouchesWord(std::string_view text, size_t begin, size_t end) const {
  return (begin > 0 && IsWordCharacter(CharBefore(text, begin).code_point)) ||
         (end < text.size() && IsWordCharacter(DecodeUtf8(text, end).code_point));
}

Result<void> AddedTokens::Split(std::string_view text,
                                FunctionRef<Result<void>(int32_t, std::string_view)> piece) const {
  size_t done = 0;  // what lies before has been handed over
  for (size_t at = 0; at < text.size() && !empty();) {
    if (!may_begin_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const Token* token = LongestAt(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->bytes;
    at = end;  // the next search begins here, even where the token is let pass or takes more white
               // space
    if (token->single_word && TouchesWord(text, begin, end)) continue;
    if (token->lstrip) {
      while (begin > done) {
        const Utf8Char before = CharBefore(text, begin);
        if (!IsWhiteSpace(before.code_point)) break;
        begin -= before.bytes;
      }
    }
    if (token->rstrip) {
      while (end < text.size()) {
        const Utf8Char after = DecodeUtf8(text, end);
        if (!IsWhiteSpace(after.code_point)) break;
        end += after.bytes;
      }
    }
    if (done < begin) {
      if (Result<void> result = piece(kText, text.substr(done, begin - done)); !result.ok()) {
        return result;
      }
    }
    if (Result<void> result = piece(token->id, {}); !result.ok()) return result;
    done = end;
  }
  return done < text.size() ? piece(kText, text.substr(done)) : Ok();
}

}  // namespace hproc::worker
