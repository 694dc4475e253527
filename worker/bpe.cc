#include "worker/bpe.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <functional>

#include "base/check.h"
#include "base/printable.h"
#include "worker/byte_level.h"

namespace hproc::worker {
namespace {

constexpr uint32_t kNone = ~uint32_t{0};

uint64_t PairOf(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

// The finalizer of splitmix64.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

bool OccursInUtf8(int byte) { return byte < 0xC0 || (byte >= 0xC2 && byte <= 0xF4); }

}  // namespace

Result<Bpe> Bpe::Create(const TokenizerSpec& spec) {
  Bpe bpe;
  bpe.ignore_merges_ = spec.ignore_merges;
  bpe.vocab_.reserve(spec.vocab.size());
  for (const auto& [token, id] : spec.vocab) {
    if (!bpe.vocab_.emplace(token, id).second) {
      return Error{"token '" + Printable(token) + "' is twice in the vocabulary"};
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const int32_t id = bpe.Find(ByteLevelChar(static_cast<uint8_t>(byte)));
    if (id < 0 && OccursInUtf8(byte)) {
      char hex[8];
      std::snprintf(hex, sizeof hex, "%02X", static_cast<unsigned>(byte));
      return Error{std::string("the vocabulary has no token for byte ") + hex +
                   ", so it is not byte-level or not whole"};
    }
    bpe.byte_ids_[static_cast<size_t>(byte)] = id;
  }
  if (Result<void> added = bpe.AddMerges(spec); !added.ok()) return added.error();
  return bpe;
}

Result<void> Bpe::AddMerges(const TokenizerSpec& spec) {
  merges_.resize(std::bit_ceil(std::max<size_t>(16, spec.merges.size() * 2)));
  std::string whole;
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    whole.assign(left).append(right);
    const int32_t left_id = Find(left);
    const int32_t right_id = Find(right);
    const int32_t whole_id = Find(whole);
    if (left_id < 0 || right_id < 0 || whole_id < 0) {
      const std::string& missing = left_id < 0 ? left : right_id < 0 ? right : whole;
      return Error{"merge " + std::to_string(rank) + ": '" + Printable(missing) +
                   "' is not in the vocabulary"};
    }
    // Of two merges of one pair the last counts, as in the tokenizers library.
    const uint64_t pair = PairOf(left_id, right_id);
    merges_[SlotOf(pair)] = {pair, static_cast<uint32_t>(rank), whole_id};
  }
  return Ok();
}

int32_t Bpe::Find(std::string_view token) const {
  const auto found = vocab_.find(token);
  return found == vocab_.end() ? -1 : found->second;
}

size_t Bpe::SlotOf(uint64_t pair) const {
  const size_t mask = merges_.size() - 1;
  size_t slot = Mix(pair) & mask;
  while (merges_[slot].pair != pair && merges_[slot].pair != kNoPair) slot = (slot + 1) & mask;
  return slot;
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const Merge& merge = merges_[SlotOf(PairOf(left, right))];
  return merge.pair == kNoPair ? nullptr : &merge;
}

void Bpe::Encode(std::string_view word, Workspace& workspace, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (const int32_t id = Find(ToByteLevel(word)); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  HPROC_CHECK(word.size() < kNone, "a pre-token of 4 GiB");
  std::vector<Workspace::Symbol>& symbols = workspace.symbols;
  const auto size = static_cast<uint32_t>(word.size());
  symbols.resize(size);
  for (uint32_t i = 0; i < size; ++i) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(word[i])];
    HPROC_CHECK(id >= 0, "the text was to be valid UTF-8");
    symbols[i] = {id, i - 1,
                  i + 1 < size ? i + 1 : kNone};  // the first one's previous is kNone by wrapping
  }

  // A queue of merges: rank, then place. An entry may have been overtaken by another merge at its
  // place; it is then recognized by its rank, which one pair only has.
  std::vector<uint64_t>& queue = workspace.queue;
  queue.clear();
  const auto later = std::greater<uint64_t>();
  const auto entry_of = [&](uint32_t at) -> uint64_t {
    const Merge* merge = FindMerge(symbols[at].id, symbols[symbols[at].next].id);
    return merge == nullptr ? kNoPair : uint64_t{merge->rank} << 32 | at;
  };
  for (uint32_t i = 0; i + 1 < size; ++i) {
    if (const uint64_t entry = entry_of(i); entry != kNoPair) queue.push_back(entry);
  }
  std::make_heap(queue.begin(), queue.end(), later);
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), later);
    const auto at = static_cast<uint32_t>(queue.back());
    const auto rank = static_cast<uint32_t>(queue.back() >> 32);
    queue.pop_back();
    Workspace::Symbol& symbol = symbols[at];
    if (symbol.id < 0 || symbol.next == kNone) continue;
    Workspace::Symbol& right = symbols[symbol.next];
    const Merge* merge = FindMerge(symbol.id, right.id);
    if (merge == nullptr || merge->rank != rank) continue;
    symbol.id = merge->id;
    right.id = -1;
    symbol.next = right.next;
    if (right.next != kNone) symbols[right.next].previous = at;
    for (const uint32_t left : {symbol.previous, at}) {
      if (left == kNone || symbols[left].next == kNone) continue;
      if (const uint64_t entry = entry_of(left); entry != kNoPair) {
        queue.push_back(entry);
        std::push_heap(queue.begin(), queue.end(), later);
      }
    }
  }
  for (const Workspace::Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

}  // namespace hproc::worker
