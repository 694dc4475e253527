// Batcher: continuous batching of generation requests over one engine.
//
// Slots are filled from the queue as they fall free. A pass holds one token of every sequence that is being decoded and,
// in the room left, prompt tokens of those that are not yet; so prompts do not hold up answers. Completions come in the
// order in which they end.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "evals/generator.h"
#include "evals/throughput.h"
#include "worker/engine.h"
#include "worker/tokenizer.h"

namespace hproc::worker {

// Called after every pass with the tokens (prompt and answer) it ran; false stops the generation at once.
using PassHook = std::function<bool(int64_t tokens)>;

// Thread-compatible. Engine and tokenizer outlive it. The engine's memory must be allocated.
class Batcher : public evals::Generator, public evals::TimedModel {
 public:
  Batcher(Engine& engine, const Tokenizer& tokenizer, PassHook hook);
  // For timing alone: generates nothing.
  explicit Batcher(Engine& engine, PassHook hook = {});
  ~Batcher() override;

  // A prompt that leaves no room for a token in the context comes back at once with FinishReason::kContext; so does one
  // of no tokens, which gives the model nothing to go on from, with an empty answer and kEndToken. When the hook stops
  // the generation, the requests still open come back as kCancelled.
  Result<void> Generate(std::span<const evals::GenerationRequest> requests,
                        const std::function<bool(evals::Completion)>& on_completion) override;

  int context() const override { return engine_.shape().context; }
  Result<double> Prefill(int batch, int tokens) override;
  Result<double> Decode(int batch, int tokens) override;

  int64_t prompt_tokens() const { return prompt_tokens_; }        // run since construction
  int64_t generated_tokens() const { return generated_tokens_; }

 private:
  struct Sequence;

  void FillPass();
  void RunPass();  // tokens_ to choices_, one for each owner
  void Advance(Sequence& sequence, const kernels::TokenChoice& choice);

  Engine& engine_;
  const Tokenizer* tokenizer_ = nullptr;
  PassHook hook_;
  std::vector<std::unique_ptr<Sequence>> active_;  // in order of admission
  std::vector<int> free_slots_;
  // The pass being built.
  std::vector<int32_t> tokens_;
  std::vector<kernels::SequenceRun> runs_;
  std::vector<int32_t> logit_rows_;
  std::vector<Sequence*> logit_owners_;
  std::vector<kernels::TokenChoice> choices_;  // the next token of each, drawn or greedy
  std::vector<int> timed_positions_;  // by slot, of the throughput runs
  int64_t prompt_tokens_ = 0;
  int64_t generated_tokens_ = 0;
};

}  // namespace hproc::worker
