// The evaluation protocol: everything that decides what a score means.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "evals/generator.h"

namespace hproc::evals {

// How answers are produced and compared. Two studies with the same protocol digest may be charted
// together.
struct EvalProtocol {
  std::string task_id;     // "gsm8k/3.0", "wordmath/1"; see TaskId
  std::string tasks_path;  // as given; not part of the digest
  std::string shots_path;  // likewise; unused with 0 shots
  std::string tasks_sha256;
  std::string shots_sha256;  // of the file the shots are drawn from; empty with 0 shots
  int shots = 0;
  int limit = 0;               // questions at most; 0: all
  int seeds = 1;               // 1: greedy; more: sampled decoding under that many seeds
  uint64_t order_seed = 1234;  // of the one order in which every trial meets the questions
  int max_new_tokens = 420;

  bool operator==(const EvalProtocol&) const = default;
};

// Sha256 over all of it but the paths, and over the version of prompts and scoring that this program
// implements.
std::string ProtocolDigest(const EvalProtocol& protocol);

// "gsm8k/3.0" for GSM8K's test split, "wordmath/1" and "wordmath-dev/1" for the embedded task,
// "custom/" and the first 12 digits of the digest for any other file. The number is the version of
// prompt and scoring: lm-evaluation-harness' task version for GSM8K, ours for wordmath.
std::string TaskId(std::string_view tasks_sha256);

// How run `seed` of a protocol draws its tokens on one question. One seed: greedy. More:
// temperature 0.6, top-k 20, top-p 0.95, the settings most reasoning models are published with; the
// draws depend on seed and question alone, not on what else is in the batch.
SamplingParams SamplingFor(const EvalProtocol& protocol, int seed, int question);

}  // namespace hproc::evals
