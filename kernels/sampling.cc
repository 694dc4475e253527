#include "kernels/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numbers>
#include <vector>

#include "base/check.h"
#include "kernels/device_backend.h"
#include "kernels/for_rows.h"
#include "kernels/sampling_parts.h"

namespace hproc::kernels {
namespace {

TokenChoice PickRow(const float* logits, int64_t columns) {
  TokenChoice choice;
  for (int64_t c = 0; c < columns; ++c) {
    choice.nonfinite += std::isfinite(logits[c]) ? 0 : 1;
    if (logits[c] > logits[choice.token] || std::isnan(logits[choice.token])) choice.token = static_cast<int32_t>(c);
  }
  choice.logit = logits[choice.token];
  if (std::isnan(choice.logit)) choice.token = 0;
  return choice;
}

// The token of a row whose highest logit is `highest`, all finite.
int32_t DrawRow(const float* logits, int64_t columns, const Draw& draw, float highest) {
  const auto key_of = [&](int64_t c) { return CandidateKey(std::bit_cast<uint32_t>(logits[c]), static_cast<uint32_t>(c)); };
  const auto weight_of = [&](int64_t c) { return WeightOf(logits[c], highest, draw.scale); };
  const auto weight_of_key = [&](uint64_t key) { return weight_of(static_cast<int64_t>(static_cast<uint32_t>(~key))); };
  const bool cuts_count = draw.top_k > 0 && draw.top_k < columns;
  uint64_t least = 0;  // key of those kept
  uint64_t kept = 0;
  if (cuts_count || draw.top_p < 1) {
    std::vector<uint64_t> keys(static_cast<size_t>(columns));
    for (int64_t c = 0; c < columns; ++c) keys[static_cast<size_t>(c)] = key_of(c);
    if (cuts_count) {
      std::nth_element(keys.begin(), keys.begin() + draw.top_k - 1, keys.end(), std::greater<>());
      keys.resize(static_cast<size_t>(draw.top_k));
    }
    const auto sum = [&](auto from, auto to) {
      uint64_t weights = 0;
      for (; from != to; ++from) weights += weight_of_key(*from);
      return weights;
    };
    // Of the part that holds the last one kept, the front half or the back.
    auto from = keys.begin();
    auto to = keys.end();
    kept = sum(from, to);
    if (draw.top_p < 1) {
      uint64_t wanted = WeightShare(draw.top_p, kept);
      while (to - from > 1) {
        const auto middle = from + (to - from) / 2;
        std::nth_element(from, middle, to, std::greater<>());
        const uint64_t front = sum(from, middle);
        if (front >= wanted) {
          to = middle;
        } else {
          wanted -= front;
          from = middle;
        }
      }
      kept = sum(keys.begin(), to);
    }
    least = *std::min_element(keys.begin(), to);
  } else {
    for (int64_t c = 0; c < columns; ++c) kept += weight_of(c);
  }
  uint64_t left = MultiplyHigh(draw.random, kept);
  for (int64_t c = 0; c < columns; ++c) {
    if (key_of(c) < least) continue;
    const uint64_t weight = weight_of(c);
    if (left < weight) return static_cast<int32_t>(c);
    left -= weight;
  }
  HPROC_CHECK(false, "a draw below the sum of the weights");
  return 0;
}

void DrawRows(const DrawCall& call, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* logits = call.logits + r * call.columns;
    TokenChoice choice = PickRow(logits, call.columns);
    if (call.draws[r].scale > 0 && choice.nonfinite == 0) {
      choice.token = DrawRow(logits, call.columns, call.draws[r], choice.logit);
      choice.logit = logits[choice.token];
    }
    call.choices[r] = choice;
  }
}

}  // namespace

void PickGreedy(const Context& context, const GreedyCall& call) {
  if (context.device != nullptr) return context.device->PickGreedy(call);
  for (int64_t r = 0; r < call.rows; ++r) call.choices[r] = PickRow(call.logits + r * call.columns, call.columns);
}

void DrawTokens(const Context& context, const DrawCall& call) {
  HPROC_CHECK(call.columns >= 1 && call.columns < int64_t{1} << 23, "logits of a draw");
  if (context.device != nullptr) return context.device->DrawTokens(call);
  ForRows(context, call.rows, 64 * call.columns, [&](int64_t begin, int64_t end) { DrawRows(call, begin, end); });
}

void DrawTokensOnHost(const DrawCall& call) { DrawRows(call, 0, call.rows); }

Draw DrawOf(double temperature, int top_k, double top_p, uint64_t seed, uint64_t index) {
  Draw draw{.scale = 0, .top_p = top_p, .random = PhiloxBits(seed, index), .top_k = top_k};
  if (temperature > 0) draw.scale = std::min(4294967296.0 / (temperature * std::numbers::ln2), kLargestDrawScale);
  return draw;
}

uint64_t PhiloxBits(uint64_t key, uint64_t counter) {
  uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  uint32_t k[2] = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53u} * c[0];
    const uint64_t second = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(second >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(second),
                              static_cast<uint32_t>(first >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(first)};
    std::copy_n(next, 4, c);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return uint64_t{c[1]} << 32 | c[0];
}

}  // namespace hproc::kernels
