// Repetition in a sequence of token ids. Pure functions.
#pragma once

#include <cstdint>
#include <span>

namespace hproc::evals {

// The thresholds are between those in use elsewhere: vllm-mlx takes 3 copies over 48 tokens, a
// llama.cpp proposal 4 of 16 to 1024 tokens. Three copies at period 1 fire on an ellipsis; four
// copies over 64 tokens do not fire on any line that people draw, a token a character, up to 63
// wide.
inline constexpr int kLoopMaxPeriod = 128;  // tokens
inline constexpr int kLoopMinCopies = 4;    // whole ones
// Tokens covered: where generation was cut off inside the loop, and where the model found its way
// out.
inline constexpr int kLoopMinTokensAtEnd = 64;
inline constexpr int kLoopMinTokensInside = 128;

struct TokenLoop {
  int period = 0;  // 0: no loop
  int start = 0;   // index of the first token
  int tokens = 0;  // covered, the last copy possibly in part
  int copies() const { return period == 0 ? 0 : tokens / period; }
};

// The longest stretch in which every token equals the one `period` before it, for the period with
// the longest such stretch (the smallest of them on a tie), if it is long enough to be a loop.
// `cut_off` says that the sequence was ended from outside, so a stretch at its end might have gone
// on. O(n * kLoopMaxPeriod).
TokenLoop FindTokenLoop(std::span<const int32_t> ids, bool cut_off);

// How often the most frequent sequence of four tokens occurs within any 256 tokens (the measure of
// hipfire's loop guard). Only sequences of three distinct tokens or more count, so that a line
// drawn with one or two characters is no phrase; overlapping occurrences count. 0 below four
// tokens. O(n).
inline constexpr int kPhraseTokens = 4;
inline constexpr int kPhraseMinDistinct = 3;
inline constexpr int kPhraseWindow = 256;
int MaxPhraseRepeats(std::span<const int32_t> ids);

// The smallest share of distinct tokens in any 200 consecutive ones; 1 for shorter sequences. O(n).
inline constexpr int kDistinctWindow = 200;
double MinDistinctRatio(std::span<const int32_t> ids);

}  // namespace hproc::evals
