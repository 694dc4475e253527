#include "evals/token_loops.h"

#include <algorithm>
#include <array>
#include <unordered_map>

namespace hproc::evals {
namespace {

using Phrase = std::array<int32_t, kPhraseTokens>;

struct PhraseHash {
  size_t operator()(const Phrase& phrase) const {
    uint64_t hash = 0;
    for (const int32_t id : phrase) {
      hash = (hash ^ static_cast<uint32_t>(id)) * 0x9E3779B97F4A7C15u;  // Fibonacci hashing
      hash ^= hash >> 32;
    }
    return static_cast<size_t>(hash);
  }
};

int CountDistinct(Phrase phrase) {
  std::sort(phrase.begin(), phrase.end());
  return static_cast<int>(std::unique(phrase.begin(), phrase.end()) - phrase.begin());
}

}  // namespace

TokenLoop FindTokenLoop(std::span<const int32_t> ids, bool cut_off) {
  TokenLoop longest;
  const int n = static_cast<int>(ids.size());
  for (int period = 1; period <= std::min(kLoopMaxPeriod, n - 1); ++period) {
    int equal = 0;  // tokens up to here that equal the one a period before
    for (int i = period; i <= n; ++i) {
      if (i < n && ids[static_cast<size_t>(i)] == ids[static_cast<size_t>(i - period)]) {
        ++equal;
        continue;
      }
      const int tokens = equal + period;
      const int needed = i == n && cut_off ? kLoopMinTokensAtEnd : kLoopMinTokensInside;
      if (equal > 0 && tokens >= needed && tokens / period >= kLoopMinCopies &&
          tokens > longest.tokens) {
        longest = {.period = period, .start = i - tokens, .tokens = tokens};
      }
      equal = 0;
    }
  }
  return longest;
}

int MaxPhraseRepeats(std::span<const int32_t> ids) {
  std::unordered_map<Phrase, int, PhraseHash> counts;
  const auto phrase_at = [ids](size_t start) {
    Phrase phrase;
    std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(start), kPhraseTokens, phrase.begin());
    return phrase;
  };
  int most = 0;
  for (size_t start = 0; start + kPhraseTokens <= ids.size(); ++start) {
    const Phrase phrase = phrase_at(start);
    const int repeats = ++counts[phrase];
    if (repeats > most && CountDistinct(phrase) >= kPhraseMinDistinct) most = repeats;
    // The window that ends with this phrase holds kPhraseWindow - kPhraseTokens + 1 phrases.
    if (start + kPhraseTokens >= kPhraseWindow)
      --counts[phrase_at(start + kPhraseTokens - kPhraseWindow)];
  }
  return most;
}

double MinDistinctRatio(std::span<const int32_t> ids) {
  std::unordered_map<int32_t, int> counts;
  int distinct = 0;
  int fewest = kDistinctWindow;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (++counts[ids[i]] == 1) ++distinct;
    if (i >= kDistinctWindow && --counts[ids[i - kDistinctWindow]] == 0) --distinct;
    if (i + 1 >= kDistinctWindow) fewest = std::min(fewest, distinct);
  }
  return static_cast<double>(fewest) / kDistinctWindow;
}

}  // namespace hproc::evals
