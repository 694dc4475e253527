// Golden: how far a model's logits and greedy tokens are from a recorded truth.
#pragma once

#include <filesystem>

#include "base/result.h"
#include "worker/ranks.h"
#include "worker/runtime.h"

namespace hproc::worker {

struct GoldenResult {
  double logits_rel_err = 0;  // ||ours - golden|| / ||golden|| over all prompt logits
  int greedy_match = 0;       // greedy tokens that agree; each continues from the golden ones before it
  int greedy_total = 0;
};

// `golden` is a safetensors file with prompt_ids [n] and prompt_logits [n, vocabulary] and, where the greedy check is
// wanted, greedy_prompt_ids [m] and greedy_ids [k] (I32, F32). The model is run as stored, unquantized, with float32 keys
// and values. The whole prompt is prefilled in pieces; the greedy tokens are decoded one by one. Of several ranks every one calls
// it, with a runtime of its own; rank 0 has the result.
Result<GoldenResult> RunGolden(const std::filesystem::path& model_dir, const std::filesystem::path& golden,
                               Runtime& runtime, const Rank& rank = {});

}  // namespace hproc::worker
