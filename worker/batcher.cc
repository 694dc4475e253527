#include "worker/batcher.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "worker/sampler.h"

namespace hproc::worker {
namespace {

using evals::Completion;
using evals::FinishReason;
using evals::GenerationRequest;

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// Tokens for timing: which they are does not matter, but they should not all be one, or every token would take the
// same experts.
int32_t TimedToken(int64_t i, int64_t vocabulary) { return static_cast<int32_t>((i * 2654435761 + 12345) % vocabulary); }

}  // namespace

struct Batcher::Sequence {
  Sequence(const GenerationRequest& r, std::vector<int32_t> ids, const Tokenizer& tokenizer)
      : request(r), prompt(std::move(ids)), sampler(r.sampling), decoder(tokenizer) {
    completion.id = r.id;
    completion.prompt_tokens = static_cast<int>(prompt.size());
    for (const std::string& stop : r.stop) longest_stop = std::max(longest_stop, stop.size());
  }

  void Finish(FinishReason reason) {
    done = true;
    completion.finish = reason;
  }

  // With the character that was left incomplete, unless the text was cut before it.
  Completion TakeCompletion() {
    if (completion.finish != FinishReason::kStopText) completion.text += decoder.Flush();
    return std::move(completion);
  }

  const GenerationRequest& request;
  std::vector<int32_t> prompt;
  Sampler sampler;
  StreamDecoder decoder;
  Completion completion;
  size_t longest_stop = 0;
  int slot = -1;
  int position = 0;   // tokens in the cache
  int32_t next = -1;  // the token to feed once the prompt is in
  bool done = false;
};

Batcher::Batcher(Engine& engine, const Tokenizer& tokenizer, PassHook hook) : Batcher(engine, std::move(hook)) {
  tokenizer_ = &tokenizer;
}

Batcher::Batcher(Engine& engine, PassHook hook) : engine_(engine), hook_(std::move(hook)) {
  timed_positions_.assign(static_cast<size_t>(engine.shape().slots), 0);
}

Batcher::~Batcher() = default;

void Batcher::FillPass() {
  tokens_.clear();
  runs_.clear();
  logit_rows_.clear();
  logit_owners_.clear();
  const auto add = [&](Sequence& sequence, std::span<const int32_t> tokens, bool with_logits) {
    runs_.push_back({.slot = sequence.slot, .first_position = sequence.position,
                     .first_row = static_cast<int32_t>(tokens_.size()), .tokens = static_cast<int32_t>(tokens.size())});
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    sequence.position += static_cast<int>(tokens.size());
    if (with_logits) {
      logit_rows_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
      logit_owners_.push_back(&sequence);
    }
  };
  for (const auto& sequence : active_) {
    if (sequence->next < 0) continue;
    add(*sequence, {&sequence->next, 1}, true);
    ++generated_tokens_;
  }
  for (const auto& sequence : active_) {
    if (sequence->next >= 0) continue;
    const size_t room = static_cast<size_t>(engine_.shape().pass_tokens) - tokens_.size();
    if (room == 0) break;
    const auto from = static_cast<size_t>(sequence->position);
    const size_t count = std::min(room, sequence->prompt.size() - from);
    prompt_tokens_ += static_cast<int64_t>(count);
    add(*sequence, std::span(sequence->prompt).subspan(from, count), from + count == sequence->prompt.size());
  }
}

void Batcher::RunPass() {
  choices_.clear();
  const bool greedy = std::ranges::all_of(logit_owners_, [](const Sequence* s) { return s->request.sampling.temperature <= 0; });
  if (greedy) {
    const std::span<const kernels::TokenChoice> choices = engine_.PassGreedy(tokens_, runs_, logit_rows_);
    choices_.assign(choices.begin(), choices.end());
    return;
  }
  std::vector<kernels::Draw> draws;
  for (Sequence* sequence : logit_owners_) draws.push_back(sequence->sampler.NextDraw());
  const std::span<const kernels::TokenChoice> choices = engine_.PassDrawn(tokens_, runs_, logit_rows_, draws);
  choices_.assign(choices.begin(), choices.end());
}

void Batcher::Advance(Sequence& sequence, const kernels::TokenChoice& choice) {
  Completion& completion = sequence.completion;
  completion.nonfinite_logits += choice.nonfinite;
  if (completion.nonfinite_logits > 0) return sequence.Finish(FinishReason::kNonFinite);
  const int32_t token = choice.token;
  const std::vector<int32_t>& ends = engine_.spec().end_tokens;
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) return sequence.Finish(FinishReason::kEndToken);
  completion.token_ids.push_back(token);
  // A stop string can start in what was there before this token.
  const size_t before = completion.text.size();
  completion.text += sequence.decoder.Push(token);
  const size_t from = before > sequence.longest_stop ? before - sequence.longest_stop : 0;
  size_t first = std::string::npos;
  for (const std::string& stop : sequence.request.stop) {
    if (!stop.empty()) first = std::min(first, completion.text.find(stop, from));
  }
  if (first != std::string::npos) {
    completion.text.resize(first);
    return sequence.Finish(FinishReason::kStopText);
  }
  if (static_cast<int>(completion.token_ids.size()) >= sequence.request.max_new_tokens) {
    return sequence.Finish(FinishReason::kLength);
  }
  if (sequence.position >= engine_.shape().context) return sequence.Finish(FinishReason::kContext);
  sequence.next = token;
}

Result<void> Batcher::Generate(std::span<const GenerationRequest> requests,
                               const std::function<bool(Completion)>& on_completion) {
  if (tokenizer_ == nullptr) return Error{"a model without a tokenizer answers no prompts"};
  active_.clear();
  free_slots_.clear();
  for (int slot = engine_.shape().slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  const auto vocabulary = static_cast<size_t>(engine_.spec().vocabulary);
  size_t queued = 0;
  bool wanted = true;
  bool stopped = false;
  while (wanted && !stopped && (queued < requests.size() || !active_.empty())) {
    while (queued < requests.size() && !free_slots_.empty() && wanted) {
      const GenerationRequest& request = requests[queued++];
      Result<std::vector<int32_t>> ids = tokenizer_->Encode(request.prompt);
      if (!ids.ok()) return ids.error();
      auto sequence = std::make_unique<Sequence>(request, std::move(*ids), *tokenizer_);
      const auto outside = [&](int32_t id) { return id < 0 || static_cast<size_t>(id) >= vocabulary; };
      if (std::ranges::any_of(sequence->prompt, outside)) {
        return Error{"the tokenizer has tokens that the model's vocabulary of " + std::to_string(vocabulary) +
                     " does not: they do not belong together"};
      }
      const bool is_empty = sequence->prompt.empty();
      if (is_empty || static_cast<int>(sequence->prompt.size()) >= engine_.shape().context) {
        sequence->Finish(is_empty ? FinishReason::kEndToken : FinishReason::kContext);
        wanted = on_completion(std::move(sequence->completion));
        continue;
      }
      sequence->slot = free_slots_.back();
      free_slots_.pop_back();
      engine_.ResetSlot(sequence->slot);
      active_.push_back(std::move(sequence));
    }
    if (!wanted || active_.empty()) continue;
    FillPass();
    RunPass();
    for (size_t i = 0; i < logit_owners_.size(); ++i) Advance(*logit_owners_[i], choices_[i]);
    stopped = hook_ && !hook_(static_cast<int64_t>(tokens_.size()));
    for (size_t i = 0; i < active_.size() && wanted;) {
      if (!active_[i]->done) {
        ++i;
        continue;
      }
      free_slots_.push_back(active_[i]->slot);
      Completion completion = active_[i]->TakeCompletion();
      active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
      wanted = on_completion(std::move(completion));
    }
  }
  // Stopped from outside: what is open is told so.
  for (const auto& sequence : active_) {
    if (!stopped || !wanted) break;
    sequence->Finish(FinishReason::kCancelled);
    wanted = on_completion(sequence->TakeCompletion());
  }
  for (; stopped && wanted && queued < requests.size(); ++queued) {
    Completion completion;
    completion.id = requests[queued].id;
    completion.finish = FinishReason::kCancelled;
    wanted = on_completion(std::move(completion));
  }
  active_.clear();
  return Ok();
}

Result<double> Batcher::Prefill(int batch, int tokens) {
  const EngineShape& shape = engine_.shape();
  if (batch < 1 || batch > shape.slots || tokens < 1 || tokens > shape.context) {
    return Error{"throughput: " + std::to_string(batch) + " sequences of " + std::to_string(tokens) +
                 " tokens do not fit " + std::to_string(shape.slots) + " of " + std::to_string(shape.context)};
  }
  for (int slot = 0; slot < shape.slots; ++slot) engine_.ResetSlot(slot);
  std::fill(timed_positions_.begin(), timed_positions_.end(), 0);
  const auto start = std::chrono::steady_clock::now();
  for (int slot = 0; slot < batch; ++slot) {
    int& position = timed_positions_[static_cast<size_t>(slot)];
    while (position < tokens) {
      const int count = std::min(shape.pass_tokens, tokens - position);
      tokens_.clear();
      for (int i = 0; i < count; ++i) tokens_.push_back(TimedToken(slot * 7919 + position + i, engine_.spec().vocabulary));
      const kernels::SequenceRun run{.slot = slot, .first_position = position, .first_row = 0, .tokens = count};
      const int32_t last = count - 1;
      // The first token of an answer comes with the last pass of its prompt.
      const bool with_logits = position + count == tokens;
      engine_.PassGreedy(tokens_, {&run, 1}, {&last, with_logits ? size_t{1} : size_t{0}});
      position += count;
      if (hook_ && !hook_(count)) return Error{"throughput: stopped"};
    }
  }
  return Seconds(start);
}

Result<double> Batcher::Decode(int batch, int tokens) {
  const EngineShape& shape = engine_.shape();
  for (int slot = 0; slot < batch; ++slot) {
    if (batch > shape.slots || timed_positions_[static_cast<size_t>(slot)] + tokens > shape.context) {
      return Error{"throughput: " + std::to_string(tokens) + " further tokens do not fit the context"};
    }
  }
  std::vector<int32_t> rows(static_cast<size_t>(batch));
  const auto start = std::chrono::steady_clock::now();
  for (int t = 0; t < tokens; ++t) {
    tokens_.clear();
    runs_.clear();
    for (int slot = 0; slot < batch; ++slot) {
      const int position = timed_positions_[static_cast<size_t>(slot)]++;
      runs_.push_back({.slot = slot, .first_position = position, .first_row = slot, .tokens = 1});
      tokens_.push_back(TimedToken(slot * 7919 + position, engine_.spec().vocabulary));
      rows[static_cast<size_t>(slot)] = slot;
    }
    engine_.PassGreedy(tokens_, runs_, rows);
    if (hook_ && !hook_(batch)) return Error{"throughput: stopped"};
  }
  return Seconds(start);
}

}  // namespace hproc::worker
