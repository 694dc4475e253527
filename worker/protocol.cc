// Names and the encoding side of the protocol; protocol_decode.cc is the other one.
#include "worker/protocol.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "worker/protocol_words.h"

namespace hproc::worker {
namespace {

// Keeps the order of insertion: "v" and "type" lead, which is how people read a log of lines.
using Json = nlohmann::ordered_json;

template <typename... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <typename... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;  // C++20 deduces it, clang 14 does not

Json Head(std::string_view type) { return Json{{"v", kProtocolVersion}, {"type", type}}; }

// nlohmann writes NaN and infinities as null by itself; U+FFFD stands for bytes that are not UTF-8.
std::string Line(const Json& object) {
  std::string line = object.dump(-1, ' ', false, Json::error_handler_t::replace);
  line += '\n';
  return line;
}

Json ToJson(const Deployment& d) {
  return {{"device", d.device},
          {"threads", d.threads},
          {"rank", d.rank},
          {"world_size", d.world_size},
          {"context", d.context},
          {"batch", d.batch},
          {"prefill_chunk", d.prefill_chunk},
          {"kv_dtype", d.kv_dtype}};
}

Json ToJson(const evals::GenerationRequest& r) {
  return {{"id", r.id},
          {"prompt", r.prompt},
          {"max_new_tokens", r.max_new_tokens},
          {"stop", r.stop},
          {"sampling",
           {{"temperature", r.sampling.temperature},
            {"top_k", r.sampling.top_k},
            {"top_p", r.sampling.top_p},
            {"seed", r.sampling.seed}}}};
}

Json ToJson(const evals::ThroughputSpec& s) {
  return {{"prompt_tokens", s.prompt_tokens},
          {"short_decode_tokens", s.short_decode_tokens},
          {"long_decode_tokens", s.long_decode_tokens},
          {"batch", s.batch},
          {"repetitions", s.repetitions},
          {"warmups", s.warmups}};
}

Json ToJson(const std::vector<LedgerLine>& lines) {
  Json array = Json::array();
  for (const LedgerLine& line : lines)
    array.push_back({{"name", line.name}, {"bytes", line.bytes}});
  return array;
}

Json ToJson(const std::vector<RankForecast>& ranks) {
  Json array = Json::array();
  for (const RankForecast& rank : ranks) {
    Json parts = Json::array();
    for (const PartSize& part : rank.parts) {
      parts.push_back({{"rows", part.rows}, {"columns", part.columns}, {"first_column", part.first_column}});
    }
    array.push_back({{"device", rank.device},
                     {"free_bytes", rank.free_bytes},
                     {"predicted", ToJson(rank.predicted)},
                     {"parts", std::move(parts)}});
  }
  return array;
}

Json ToJson(const std::vector<FamilyReport>& families) {
  Json array = Json::array();
  for (const FamilyReport& f : families) {
    array.push_back({{"family", f.family},
                     {"weights", f.weights},
                     {"bytes", f.bytes},
                     {"min_cosine", f.min_cosine},
                     {"mean_cosine", f.mean_cosine},
                     {"min_norm_ratio", f.min_norm_ratio},
                     {"max_norm_ratio", f.max_norm_ratio}});
  }
  return array;
}

Json ToJson(const std::vector<evals::ThroughputSample>& samples) {
  Json array = Json::array();
  for (const evals::ThroughputSample& s : samples) {
    array.push_back({{"kind", WordOf(kThroughputWords, s.kind)},
                     {"repetition", s.repetition},
                     {"tokens", s.tokens},
                     {"batch", s.batch},
                     {"seconds", s.seconds}});
  }
  return array;
}

// An event's own keys; what all events share is put before them.
using Body = std::pair<std::string_view, Json>;

Body BodyOf(const HelloEvent& e) {
  return {"hello",
          {{"pid", e.pid},
           {"worker_version", e.worker_version},
           {"device_name", e.device_name},
           {"rank", e.rank},
           {"world_size", e.world_size}}};
}

Body BodyOf(const PhaseEvent& e) {
  Json keys{{"phase", PhaseName(e.phase)}, {"begin", e.begin}};
  if (!e.begin) keys["seconds"] = e.seconds;
  return {"phase", std::move(keys)};
}

Body BodyOf(const ProgressEvent& e) {
  return {"progress",
          {{"phase", PhaseName(e.phase)}, {"done", e.done}, {"total", e.total}, {"unit", e.unit}}};
}

Body BodyOf(const HeartbeatEvent& e) { return {"heartbeat", {{"counter", e.counter}}}; }

Body BodyOf(const MemoryEvent& e) {
  return {"mem",
          {{"device", e.device},
           {"live_bytes", e.live_bytes},
           {"peak_bytes", e.peak_bytes},
           {"cap_bytes", e.cap_bytes},
           {"lines", ToJson(e.lines)}}};
}

Body BodyOf(const SampleEvent& e) {
  const evals::Completion& c = e.completion;
  return {"sample",
          {{"id", c.id},
           {"text", c.text},
           {"token_ids", c.token_ids},
           {"prompt_tokens", c.prompt_tokens},
           {"finish", WordOf(kFinishWords, c.finish)},
           {"nonfinite_logits", c.nonfinite_logits}}};
}

Body BodyOf(const OutOfMemoryEvent& e) {
  return {"oom",
          {{"phase", PhaseName(e.phase)},
           {"device", e.device},
           {"requested_bytes", e.requested_bytes},
           {"available_bytes", e.available_bytes},
           {"what", e.what}}};
}

Body BodyOf(const ErrorEvent& e) {
  return {"error", {{"kind", ErrorKindName(e.kind)}, {"message", e.message}}};
}

Body BodyOf(const ResultEvent& e) {
  Json keys = std::visit(Overloaded{
                             [](const MeasureResult& r) -> Json {
                               return {{"of", "measure"},
                                       {"table_path", r.table_path},
                                       {"reused", r.reused},
                                       {"fingerprint", r.fingerprint},
                                       {"allocation_granularity", r.allocation_granularity},
                                       {"device_free_bytes", r.device_free_bytes},
                                       {"predicted", ToJson(r.predicted)},
                                       {"arranged", r.arranged},
                                       {"ranks", ToJson(r.ranks)}};
                             },
                             [](const LoadResult& r) -> Json {
                               return {{"of", "load"},
                                       {"plan_digest", r.plan_digest},
                                       {"weight_bytes", r.weight_bytes},
                                       {"bits_per_weight", r.bits_per_weight},
                                       {"seconds", r.seconds},
                                       {"families", ToJson(r.families)}};
                             },
                             [](const ReadyResult&) -> Json {
                               return {{"of", "ready"}};
                             },
                             [](const GenerateResult& r) -> Json {
                               return {{"of", "generate"},
                                       {"cancelled", r.cancelled},
                                       {"prompt_tokens", r.prompt_tokens},
                                       {"generated_tokens", r.generated_tokens},
                                       {"seconds", r.seconds}};
                             },
                             [](const ThroughputResult& r) -> Json {
                               return {{"of", "throughput"}, {"samples", ToJson(r.samples)}};
                             },
                             [](const ExitResult&) -> Json {
                               return {{"of", "exit"}};
                             },
                         },
                         e.result);
  return {"result", std::move(keys)};
}

}  // namespace

std::string_view PhaseName(Phase phase) { return WordOf(kPhaseWords, phase); }
std::optional<Phase> PhaseFromName(std::string_view name) { return FromWord(kPhaseWords, name); }

std::string_view ErrorKindName(ErrorKind kind) { return WordOf(kErrorKindWords, kind); }
std::optional<ErrorKind> ErrorKindFromName(std::string_view name) {
  return FromWord(kErrorKindWords, name);
}

std::string EncodeJob(const Job& job) {
  return Line(std::visit(Overloaded{
                             [](const MeasureJob& m) {
                               Json object = Head("measure");
                               object["model_dir"] = m.model_dir;
                               object["table_folder"] = m.table_folder;
                               object["deployment"] = ToJson(m.deployment);
                               object["mode"] = m.mode;
                               return object;
                             },
                             [](const TrialJob& t) {
                               Json object = Head("trial");
                               object["model_dir"] = t.model_dir;
                               object["plan_json"] = t.plan_json;
                               object["deployment"] = ToJson(t.deployment);
                               object["memory_cap_bytes"] = t.memory_cap_bytes;
                               object["needed_free_bytes"] = t.needed_free_bytes;
                               object["idle_wait_seconds"] = t.idle_wait_seconds;
                               object["fingerprint"] = t.fingerprint;
                               object["rendezvous"] = t.rendezvous;
                               return object;
                             },
                         },
                         job));
}

std::string EncodeCommand(const Command& command) {
  return Line(std::visit(Overloaded{
                             [](const GenerateCommand& g) {
                               Json object = Head("generate");
                               Json& requests = object["requests"] = Json::array();
                               for (const evals::GenerationRequest& r : g.requests) {
                                 requests.push_back(ToJson(r));
                               }
                               return object;
                             },
                             [](const CancelCommand&) { return Head("cancel"); },
                             [](const ThroughputCommand& t) {
                               Json object = Head("throughput");
                               object["spec"] = ToJson(t.spec);
                               return object;
                             },
                             [](const FinishCommand&) { return Head("finish"); },
                         },
                         command));
}

std::string EncodeEvent(const Event& event) {
  auto [type, keys] = std::visit([](const auto& body) { return BodyOf(body); }, event.body);
  Json object = Head(type);
  object["seq"] = event.seq;
  object["t"] = event.t;
  object.update(keys);
  return Line(object);
}

}  // namespace hproc::worker
