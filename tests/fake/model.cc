#include "tests/fake/model.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/file.h"
#include "base/sha256.h"

namespace hproc::fake {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxTasksBytes = 64 << 20;
constexpr int64_t kMaxTableBytes = 64 << 20;

// In [0, 1), the same for the same text.
double Hash(const std::string& text) {
  const std::string digits = Sha256Hex(text).substr(0, 13);  // 52 bits: a double holds them all
  return std::ldexp(static_cast<double>(std::stoll(digits, nullptr, 16)), -52);
}

std::string LastQuestion(const std::string& prompt) {
  static const std::string kQuestion = "Question: ";
  const size_t start = prompt.rfind(kQuestion);
  if (start == std::string::npos) return prompt;
  const std::string rest = prompt.substr(start + kQuestion.size());
  return rest.substr(0, rest.rfind("\nAnswer:"));
}

std::string AfterHashes(const std::string& answer) {
  const size_t marks = answer.rfind("#### ");
  return marks == std::string::npos ? answer : answer.substr(marks + 5);
}

// A number that looks like the gold and is not.
std::string Wrong(const std::string& gold) { return gold + "7"; }

// One token a word, as a stand-in.
std::vector<int32_t> Tokens(const std::string& text) {
  std::vector<int32_t> ids;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    ids.push_back(static_cast<int32_t>(Hash(word) * 1000) + 1);
  }
  return ids;
}

}  // namespace

Result<Model> Model::Make(const Json& settings, const std::string& plan_json,
                          const worker::Deployment& deployment) {
  Model model;
  double strict = 1;
  double lazy = 1;
  if (!plan_json.empty()) {
    const Json plan = Json::parse(plan_json, nullptr, /*allow_exceptions=*/false);
    if (!plan.is_object()) return Error{"the plan is not a JSON object"};
    if (plan.contains("weight_bytes")) {
      model.weight_bytes_ = plan["weight_bytes"];
    } else if (plan.contains("tensors")) {
      model.weight_bytes_ = 0;
      for (const Json& tensor : plan["tensors"]) model.weight_bytes_ += tensor.value("bytes", 0);
    }
    const Json floors = plan.value("floors", Json::object());
    strict = floors.value("strict", 1.0);
    lazy = floors.value("lazy", 1.0);
    if (strict == 0) {  // INT4 promises nothing, and is taken to cost nothing
      strict = lazy = 1;
      model.garbage_ = settings.value("int4_garbage", false);
    }
    model.plan_digest_ = plan.value("digest", Sha256Hex(plan_json));
  }
  model.cache_bytes_ =
      settings.value("kv_bytes_per_token", int64_t{0}) * deployment.context * deployment.batch;
  model.activation_bytes_ = settings.value("activation_bytes", int64_t{0});
  model.hidden_bytes_ = settings.value("hidden_bytes", int64_t{0});
  model.bandwidth_bytes_per_s_ = settings.value("bandwidth_bytes_per_s", 1e9);
  model.accuracy_ = settings.value("accuracy", 1.0) -
                    settings.value("strict_slope", 0.0) * (1 - strict) -
                    settings.value("lazy_slope", 0.0) * (1 - lazy);
  const Json garbage_below = settings.value("garbage_below", Json::object());
  model.garbage_ |=
      strict < garbage_below.value("strict", 0.0) || lazy < garbage_below.value("lazy", 0.0);

  model.rate_table_ = settings.value("table", std::string("{}"));
  const std::string table = settings.value("table_file", std::string());
  if (!table.empty()) {
    Result<std::string> bytes = ReadFile(table, kMaxTableBytes);
    if (!bytes.ok()) return bytes.error();
    model.rate_table_ = *std::move(bytes);
  }

  const std::string tasks = settings.value("tasks", std::string());
  if (!tasks.empty()) {
    const Result<std::string> text = ReadFile(tasks, kMaxTasksBytes);
    if (!text.ok()) return text.error();
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
      const Json task = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!task.is_object()) return Error{tasks + ": a line is not a JSON object"};
      model.gold_[task.value("question", "")] = AfterHashes(task.value("answer", ""));
    }
  }
  return model;
}

std::vector<worker::LedgerLine> Model::Ledger() const {
  return {{"weights_lazy", weight_bytes_},
          {"kv_cache", cache_bytes_},
          {"activations", activation_bytes_}};
}

std::vector<worker::LedgerLine> Model::PredictedLines() const {
  return {{"kv_cache", cache_bytes_}, {"activations", activation_bytes_ - hidden_bytes_}};
}

evals::Completion Model::Answer(const evals::GenerationRequest& request) const {
  if (garbage_) return Garbage(request);
  const std::string question = LastQuestion(request.prompt);
  const auto known = gold_.find(question);
  const std::string gold = known == gold_.end() ? "42" : known->second;
  // Greedy answers do not depend on the seed, as with a real model.
  const std::string key = request.sampling.temperature > 0
                              ? question + std::to_string(request.sampling.seed)
                              : question;
  evals::Completion completion;
  completion.id = request.id;
  completion.text =
      " One step, then the next.\n#### " + (Hash(key) < accuracy_ ? gold : Wrong(gold));
  completion.token_ids = Tokens(completion.text);
  completion.prompt_tokens = static_cast<int>(Tokens(request.prompt).size());
  completion.finish = evals::FinishReason::kEndToken;
  if (static_cast<int>(completion.token_ids.size()) > request.max_new_tokens) {
    completion.token_ids.resize(static_cast<size_t>(request.max_new_tokens));
    completion.finish = evals::FinishReason::kLength;
  }
  return completion;
}

evals::Completion Model::Garbage(const evals::GenerationRequest& request) const {
  const auto tokens = static_cast<size_t>(request.max_new_tokens);
  evals::Completion completion;
  completion.id = request.id;
  completion.text = std::string(tokens, '!');
  completion.token_ids.assign(tokens, 0);
  completion.prompt_tokens = static_cast<int>(Tokens(request.prompt).size());
  completion.finish = evals::FinishReason::kLength;
  return completion;
}

std::vector<evals::ThroughputSample> Model::Throughput(const evals::ThroughputSpec& spec) const {
  using evals::ThroughputKind;
  const double decode_steps_per_s =
      bandwidth_bytes_per_s_ / static_cast<double>(std::max<int64_t>(weight_bytes_, 1));
  std::vector<evals::ThroughputSample> samples;
  for (int repetition = 0; repetition < spec.repetitions; ++repetition) {
    const auto add = [&](ThroughputKind kind, int tokens, double tok_per_s) {
      samples.push_back({kind, repetition, tokens * spec.batch, spec.batch, tokens / tok_per_s});
    };
    add(ThroughputKind::kPrefill, spec.prompt_tokens, 10 * decode_steps_per_s);
    add(ThroughputKind::kShortDecode, spec.short_decode_tokens, decode_steps_per_s);
    add(ThroughputKind::kLongDecode, spec.long_decode_tokens, decode_steps_per_s);
  }
  return samples;
}

}  // namespace hproc::fake
