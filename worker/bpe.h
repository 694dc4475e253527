// Byte-pair encoding of one pre-token: bytes to token ids.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "worker/tokenizer_file.h"

namespace hproc::worker {

// Immutable; Encode is safe from several threads at once, each with a Workspace of its own.
class Bpe {
 public:
  // Refused: two tokens of one text or one id, a merge whose parts or whole are no tokens, a byte
  // of UTF-8 without a token (text would be lost silently).
  static Result<Bpe> Create(const TokenizerSpec& spec);

  // Memory that Encode uses again and again.
  class Workspace {
   private:
    friend class Bpe;
    struct Symbol {
      int32_t id;  // -1: merged into the one before
      uint32_t previous;
      uint32_t next;
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;
  };

  // Appends the ids of `word`, raw bytes (not their byte-level characters), fewer than 2^32. Merges
  // the pair of lowest rank first, the leftmost of several, until no pair is left that has a merge;
  // n log n for n bytes.
  void Encode(std::string_view word, Workspace& workspace, std::vector<int32_t>& ids) const;

  // The id of a token as the vocabulary writes it; -1: none.
  int32_t Find(std::string_view token) const;

 private:
  struct Merge {
    uint64_t pair = kNoPair;  // left id << 32 | right id
    uint32_t rank = 0;
    int32_t id = 0;
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  Bpe() = default;
  Result<void> AddMerges(const TokenizerSpec& spec);
  size_t SlotOf(uint64_t pair) const;  // where the pair is, or would be put
  const Merge* FindMerge(int32_t left, int32_t right) const;

  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> vocab_;
  // Open addressing, at most half full, a power of two long: a lookup is one cache line for most
  // pairs, which is where the time of encoding goes.
  std::vector<Merge> merges_;
  std::array<int32_t, 256> byte_ids_{};  // -1: a byte that valid UTF-8 never has
  bool ignore_merges_ = false;
};

}  // namespace hproc::worker
