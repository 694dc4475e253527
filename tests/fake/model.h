// The model that fake_worker plays: an ideal one, whose bytes, accuracy, speed and garbage are
// functions of the plan and the floors, the same in every run.
//
//   bytes      of the weights: "weight_bytes" of the plan JSON, or the sum of "bytes" over its
//              "tensors"; of the cache: kv_bytes_per_token x context x batch; of the activations:
//              activation_bytes; a measure job predicts the last two, less hidden_bytes of the
//              activations
//   accuracy   a question is answered right when hash(question) in [0, 1) lies below
//              accuracy - strict_slope x (1 - strict) - lazy_slope x (1 - lazy): what a lower floor
//              answers right, a higher one does too
//   garbage    where a floor of the plan lies below garbage_below; of INT4 plans where int4_garbage is set
//   speed      decode: bandwidth_bytes_per_s over the bytes of the weights; prefill: ten times that
//
// The keys named here are those of "model" in the script; the plan's floors are "floors":
// {"strict", "lazy"}, 1 where they are missing. The rate table of a measure job is a copy of the
// file "table_file", or the text "table"; its fingerprint is "fingerprint", or "fake-fingerprint".
// Gold answers come from the JSONL file "tasks"
// ({"question", "answer"}, GSM8K's layout).
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "evals/generator.h"
#include "evals/throughput.h"
#include "worker/protocol.h"

namespace hproc::fake {

class Model {
 public:
  // `plan_json` is empty for a measure job. Errors: not JSON, a tasks file that cannot be read.
  static Result<Model> Make(const nlohmann::json& settings, const std::string& plan_json,
                            const worker::Deployment& deployment);

  int64_t weight_bytes() const { return weight_bytes_; }
  int64_t cache_bytes() const { return cache_bytes_; }
  int64_t activation_bytes() const { return activation_bytes_; }
  // The plan's "digest", or the sha256 of its text.
  const std::string& plan_digest() const { return plan_digest_; }
  std::vector<worker::LedgerLine> Ledger() const;
  // What a measure job says of the memory beside the weights.
  std::vector<worker::LedgerLine> PredictedLines() const;
  const std::string& rate_table() const { return rate_table_; }

  // The answer to the last "Question: …\nAnswer:" of the prompt.
  evals::Completion Answer(const evals::GenerationRequest& request) const;
  evals::Completion Garbage(const evals::GenerationRequest& request) const;
  std::vector<evals::ThroughputSample> Throughput(const evals::ThroughputSpec& spec) const;

 private:
  int64_t weight_bytes_ = int64_t{1} << 20;
  int64_t cache_bytes_ = 0;
  int64_t activation_bytes_ = 0;
  int64_t hidden_bytes_ = 0;
  double accuracy_ = 1;
  double bandwidth_bytes_per_s_ = 1e9;
  bool garbage_ = false;
  std::string plan_digest_;
  std::string rate_table_;
  std::map<std::string, std::string> gold_;  // by question
};

}  // namespace hproc::fake
