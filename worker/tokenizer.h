// Tokenizer: text to token ids and back, as the tokenizers library does it for a byte-level BPE
// tokenizer.json.
//
//   text ─▶ added tokens ─▶ NFC ─▶ added tokens ─▶ pre-tokenizer ─▶ BPE ─▶ ids
//           (raw text)             ("normalized")
//
// Each stage sees what the one before left over, piece by piece, and nothing across the pieces.
//
// Supported: model BPE with merges as "a b" or ["a", "b"] and ignore_merges; normalizer NFC, null
// or a Sequence of these; pre-tokenizer ByteLevel or a Sequence of Splits (Regex or String;
// Isolated or Removed) and a ByteLevel at its end; decoder ByteLevel; every flag of an added token.
// Refused by name: other models, normalizers, pre-tokenizers, behaviors and decoders,
// byte_fallback, dropout, affixes. Without effect: post_processor (nothing is added to a text:
// add_special_tokens=False), truncation, padding, unk_token (no byte is unknown). An id is the one
// the file declares; a file whose ids contradict each other is refused.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "worker/tokenizer_file.h"

namespace hproc::worker {

// Movable. Immutable but for a cache of words, so that every method is safe from several threads at
// once; two Encodes at once do not wait for each other, but only one uses the cache.
class Tokenizer {
 public:
  // The file is at most kMaxTokenizerBytes; errors name it.
  static Result<Tokenizer> FromFile(const std::filesystem::path& path);
  // `label` stands in front of errors.
  static Result<Tokenizer> FromJson(std::string_view json, std::string_view label);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Broken UTF-8 is read as U+FFFD, one for each broken piece (base/utf8.h), which is what Python
  // hands to the library after errors="replace". Fails on more than 1 GiB of text, and where a
  // pattern of the file needs absurdly many steps.
  Result<std::vector<int32_t>> Encode(std::string_view text) const;

  // The text of all the ids together, as UTF-8; what is broken in it becomes U+FFFD. Ids that no
  // token has are passed over, and special tokens where `skip_special` says so.
  std::string Decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // What one token adds to a text: bytes, not always whole characters. Empty for an id that no
  // token has.
  std::string_view TokenBytes(int32_t id) const;
  bool IsSpecial(int32_t id) const;

  // Of an added token by its text ("<|endoftext|>"), of another as the vocabulary writes it
  // ("Ġthe").
  std::optional<int32_t> TokenId(std::string_view token) const;

  // One more than the highest id: how many logits a model needs at least.
  int32_t vocab_size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  static Result<Tokenizer> FromSpec(const TokenizerSpec& spec);

  std::unique_ptr<Impl> impl_;
};

// Turns ids into text as they come, and only ever into whole characters: a client or a search for
// stop strings never sees half of one. All that Push and Flush return, put together, is what Decode
// returns for all ids. Thread-compatible.
class StreamDecoder {
 public:
  // `tokenizer` must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // What has become certain with this id; often one word, sometimes nothing.
  std::string Push(int32_t id);
  // The end: a character left incomplete becomes U+FFFD. The decoder is then as new.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;  // the beginning of a character, at most 3 bytes
};

}  // namespace hproc::worker
