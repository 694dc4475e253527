// The decoding side of the protocol. The other end of the pipe may be broken, of another version,
// or hostile.
//
// Two passes over a line: the first builds nothing and refuses what would cost too much or has two
// meanings (nesting, number of values, a key given twice); the second builds a tree that is then
// known to be small and is read key by key.
#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/lines.h"
#include "worker/protocol.h"
#include "worker/protocol_words.h"

namespace hproc::worker {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 8;  // the deepest message has 4
constexpr size_t kMaxValues =
    4'000'000;  // some 100 bytes each in the tree; the largest generate has some 100 000
constexpr size_t kMaxQuoted = 60;  // of foreign text inside a message
constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

std::string Quoted(std::string_view text) { return '"' + OneLine(text, kMaxQuoted) + '"'; }

// The first pass. nlohmann calls it for every token; returning false ends the parse.
class Screen : public nlohmann::json_sax<Json> {
 public:
  std::string TakeProblem() { return std::move(problem_); }

  bool null() override { return Count(); }
  bool boolean(bool) override { return Count(); }
  bool number_integer(number_integer_t) override { return Count(); }
  bool number_unsigned(number_unsigned_t) override { return Count(); }
  bool number_float(number_float_t, const string_t&) override { return Count(); }
  bool string(string_t&) override { return Count(); }
  bool binary(binary_t&) override { return Count(); }
  bool start_array(size_t) override { return Open(); }
  bool start_object(size_t) override { return Open(); }
  bool end_array() override { return Close(); }
  bool end_object() override { return Close(); }

  bool key(string_t& name) override {
    std::vector<std::string>& keys = keys_.back();
    if (keys.size() >= kMaxKeys) return Refuse("an object has more than 64 keys");
    if (std::find(keys.begin(), keys.end(), name) != keys.end()) {
      return Refuse("the key " + Quoted(name) + " is given twice");
    }
    keys.push_back(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    // The library's own text quotes the line, which may hold anything; 4xx are numbers beyond a
    // double.
    return Refuse(
        (error.id / 100 == 4 ? "a number is out of range at byte " : "not JSON at byte ") +
        std::to_string(position));
  }

 private:
  static constexpr size_t kMaxKeys = 64;  // keeps the search for a key given twice short

  bool Refuse(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }
  bool Count() { return ++values_ <= kMaxValues || Refuse("more values than any message has"); }
  bool Open() {
    if (keys_.size() >= kMaxDepth) return Refuse("nested deeper than any message");
    keys_.emplace_back();
    return Count();
  }
  bool Close() {
    keys_.pop_back();
    return true;
  }

  size_t values_ = 0;
  std::vector<std::vector<std::string>> keys_;  // of the objects open now; empty for an array
  std::string problem_;
};

// Reads the keys of one object. The first problem is kept in *problem and every later read gives a
// default: a decoder reads straight through and looks once at the end.
class Fields {
 public:
  Fields(const Json& object, std::string path, std::string* problem)
      : object_(object), path_(std::move(path)), problem_(problem) {
    if (!object.is_object()) Fail(path_.empty() ? "the line" : path_, "is not an object");
  }

  int64_t Int(const char* key, int64_t min, int64_t max = kMaxInt64) const {
    const Json* value = Find(key);
    return value == nullptr ? min : Int(*value, Path(key), min, max);
  }
  int Int32(const char* key, int min) const { return static_cast<int>(Int(key, min, kMaxInt32)); }

  uint64_t Uint64(const char* key) const {
    const Json* value = Find(key);
    if (value == nullptr) return 0;
    if (value->is_number_unsigned()) return value->get<uint64_t>();
    Fail(Path(key), "is not an integer in [0, 2^64)");
    return 0;
  }

  // Finite, within [min, max].
  double Number(const char* key, double min, double max) const {
    const Json* value = Find(key);
    if (value == nullptr) return min;
    if (!value->is_number()) return Mistyped(key, *value, "a number", min);
    const double number = value->get<double>();
    if (number >= min && number <= max) return number;
    Fail(Path(key), "is " + value->dump() + ", out of range");
    return min;
  }

  // A measurement: null stands for what is not finite.
  double Measured(const char* key) const {
    const Json* value = Find(key);
    if (value == nullptr) return 0;
    if (value->is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (!value->is_number()) return Mistyped(key, *value, "a number or null", 0.0);
    return value->get<double>();
  }

  bool Bool(const char* key) const {
    const Json* value = Find(key);
    if (value == nullptr) return false;
    return value->is_boolean() ? value->get<bool>() : Mistyped(key, *value, "true or false", false);
  }

  std::string Text(const char* key) const {
    const Json* value = Find(key);
    return value == nullptr ? std::string() : Text(*value, Path(key));
  }

  template <typename Enum, size_t kCount>
  Enum Word(const char* key, const WordTable<Enum, kCount>& table) const {
    const std::string word = Text(key);
    const std::optional<Enum> value = FromWord(table, word);
    if (!value && problem_->empty()) Fail(Path(key), "is " + Quoted(word) + ", an unknown word");
    return value.value_or(table.front().first);
  }

  Fields Object(const char* key) const {
    const Json* value = Find(key);
    // Without it there is a problem already, and what is read no longer matters.
    return Fields(value == nullptr ? object_ : *value, Path(key), problem_);
  }

  std::vector<std::string> Texts(const char* key) const {
    return Array<std::string>(
        key, [this](const Json& item, const std::string& path) { return Text(item, path); });
  }

  std::vector<int32_t> Int32s(const char* key, int64_t min) const {
    return Array<int32_t>(key, [&](const Json& item, const std::string& path) {
      return static_cast<int32_t>(Int(item, path, min, kMaxInt32));
    });
  }

  // read(Fields) for every object of the array.
  template <typename T, typename Read>
  std::vector<T> Objects(const char* key, Read read) const {
    return Array<T>(key, [&](const Json& item, const std::string& path) {
      return read(Fields(item, path, problem_));
    });
  }

 private:
  std::string Path(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

  void Fail(std::string_view path, std::string_view what) const {
    if (problem_->empty()) problem_->append(path).append(" ").append(what);
  }

  template <typename T>
  T Mistyped(const char* key, const Json& value, std::string_view wanted, T substitute) const {
    Fail(Path(key),
         std::string("is of type ") + value.type_name() + ", not " + std::string(wanted));
    return substitute;
  }

  const Json* Find(const char* key) const {
    if (!problem_->empty()) return nullptr;
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    Fail(Path(key), "is missing");
    return nullptr;
  }

  int64_t Int(const Json& value, const std::string& path, int64_t min, int64_t max) const {
    if (!value.is_number_integer()) {
      // An integer beyond 64 bits comes out of the parser as a float, and so does 1.0.
      Fail(path, std::string("is ") + (value.is_number() ? value.dump() : value.type_name()) +
                     ", not an integer of 64 bits");
      return min;
    }
    if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMaxInt64)) {
      Fail(path, "is " + value.dump() + ", above " + std::to_string(max));
      return min;
    }
    const int64_t number = value.get<int64_t>();
    if (number >= min && number <= max) return number;
    Fail(path,
         "is " + value.dump() +
             (number < min ? ", below " + std::to_string(min) : ", above " + std::to_string(max)));
    return min;
  }

  std::string Text(const Json& value, const std::string& path) const {
    if (value.is_string()) return value.get<std::string>();
    Fail(path, std::string("is of type ") + value.type_name() + ", not a string");
    return {};
  }

  template <typename T, typename Read>
  std::vector<T> Array(const char* key, Read read) const {
    std::vector<T> items;
    const Json* value = Find(key);
    if (value == nullptr) return items;
    if (!value->is_array()) {
      Mistyped(key, *value, "an array", 0);
      return items;
    }
    items.reserve(value->size());
    for (const Json& item : *value) {
      items.push_back(read(item, Path(key) + "[" + std::to_string(items.size()) + "]"));
      if (!problem_->empty()) break;
    }
    return items;
  }

  const Json& object_;
  const std::string path_;
  std::string* const problem_;
};

Deployment ReadDeployment(const Fields& f) {
  Deployment d;
  d.device = f.Text("device");
  d.threads = f.Int32("threads", 0);
  d.world_size = f.Int32("world_size", 1);
  d.rank = static_cast<int>(f.Int("rank", 0, d.world_size - 1));
  d.context = f.Int32("context", 1);
  d.batch = f.Int32("batch", 1);
  d.prefill_chunk = f.Int32("prefill_chunk", 0);
  d.kv_dtype = f.Text("kv_dtype");
  return d;
}

evals::GenerationRequest ReadRequest(const Fields& f) {
  evals::GenerationRequest r;
  r.id = f.Int("id", std::numeric_limits<int64_t>::min());
  r.prompt = f.Text("prompt");
  r.max_new_tokens = f.Int32("max_new_tokens", 1);
  r.stop = f.Texts("stop");
  const Fields sampling = f.Object("sampling");
  r.sampling.temperature = sampling.Number("temperature", 0, 1e3);
  r.sampling.top_k = sampling.Int32("top_k", 0);
  r.sampling.top_p = sampling.Number("top_p", 0, 1);
  r.sampling.seed = sampling.Uint64("seed");
  return r;
}

LedgerLine ReadLedgerLine(const Fields& f) {
  LedgerLine line;
  line.name = f.Text("name");
  line.bytes = f.Int("bytes", 0);
  return line;
}

PartSize ReadPartSize(const Fields& f) {
  PartSize part;
  part.rows = f.Int("rows", 1);
  part.columns = f.Int("columns", 1);
  part.first_column = f.Int("first_column", 0);
  return part;
}

RankForecast ReadRankForecast(const Fields& f) {
  RankForecast rank;
  rank.device = f.Text("device");
  rank.free_bytes = f.Int("free_bytes", 0);
  rank.predicted = f.Objects<LedgerLine>("predicted", ReadLedgerLine);
  rank.parts = f.Objects<PartSize>("parts", ReadPartSize);
  return rank;
}

FamilyReport ReadFamily(const Fields& f) {
  FamilyReport r;
  r.family = f.Text("family");
  r.weights = f.Int("weights", 0);
  r.bytes = f.Int("bytes", 0);
  r.min_cosine = f.Measured("min_cosine");
  r.mean_cosine = f.Measured("mean_cosine");
  r.min_norm_ratio = f.Measured("min_norm_ratio");
  r.max_norm_ratio = f.Measured("max_norm_ratio");
  return r;
}

evals::ThroughputSample ReadThroughputSample(const Fields& f) {
  evals::ThroughputSample s;
  s.kind = f.Word("kind", kThroughputWords);
  s.repetition = f.Int32("repetition", 0);
  s.tokens = f.Int32("tokens", 0);
  s.batch = f.Int32("batch", 1);
  s.seconds = f.Measured("seconds");
  return s;
}

ResultEvent ReadResult(const Fields& f, std::string* problem) {
  const std::string of = f.Text("of");
  if (of == "measure") {
    MeasureResult r;
    r.table_path = f.Text("table_path");
    r.reused = f.Bool("reused");
    r.fingerprint = f.Text("fingerprint");
    r.allocation_granularity = f.Int("allocation_granularity", 1);
    r.device_free_bytes = f.Int("device_free_bytes", 0);
    r.predicted = f.Objects<LedgerLine>("predicted", ReadLedgerLine);
    r.arranged = f.Text("arranged");
    r.ranks = f.Objects<RankForecast>("ranks", ReadRankForecast);
    return {std::move(r)};
  }
  if (of == "load") {
    LoadResult r;
    r.plan_digest = f.Text("plan_digest");
    r.weight_bytes = f.Int("weight_bytes", 0);
    r.bits_per_weight = f.Measured("bits_per_weight");
    r.seconds = f.Measured("seconds");
    r.families = f.Objects<FamilyReport>("families", ReadFamily);
    return {std::move(r)};
  }
  if (of == "ready") return {ReadyResult{}};
  if (of == "generate") {
    GenerateResult r;
    r.cancelled = f.Bool("cancelled");
    r.prompt_tokens = f.Int("prompt_tokens", 0);
    r.generated_tokens = f.Int("generated_tokens", 0);
    r.seconds = f.Measured("seconds");
    return {r};
  }
  if (of == "throughput") {
    return {ThroughputResult{f.Objects<evals::ThroughputSample>("samples", ReadThroughputSample)}};
  }
  if (of == "exit") return {ExitResult{}};
  if (problem->empty()) *problem = "of is " + Quoted(of) + ", an unknown result";
  return {ReadyResult{}};
}

EventBody ReadBody(const std::string& type, const Fields& f, std::string* problem) {
  if (type == "hello") {
    HelloEvent e;
    e.pid = f.Int("pid", 1);
    e.worker_version = f.Text("worker_version");
    e.device_name = f.Text("device_name");
    e.world_size = f.Int32("world_size", 1);
    e.rank = static_cast<int>(f.Int("rank", 0, e.world_size - 1));
    return e;
  }
  if (type == "phase") {
    PhaseEvent e;
    e.phase = f.Word("phase", kPhaseWords);
    e.begin = f.Bool("begin");
    if (!e.begin) e.seconds = f.Measured("seconds");
    return e;
  }
  if (type == "progress") {
    ProgressEvent e;
    e.phase = f.Word("phase", kPhaseWords);
    e.done = f.Int("done", 0);
    e.total = f.Int("total", 0);
    e.unit = f.Text("unit");
    return e;
  }
  if (type == "heartbeat") return HeartbeatEvent{f.Int("counter", 0)};
  if (type == "mem") {
    MemoryEvent e;
    e.device = f.Text("device");
    e.live_bytes = f.Int("live_bytes", 0);
    e.peak_bytes = f.Int("peak_bytes", 0);
    e.cap_bytes = f.Int("cap_bytes", 0);
    e.lines = f.Objects<LedgerLine>("lines", ReadLedgerLine);
    return e;
  }
  if (type == "sample") {
    evals::Completion c;
    c.id = f.Int("id", std::numeric_limits<int64_t>::min());
    c.text = f.Text("text");
    c.token_ids = f.Int32s("token_ids", 0);
    c.prompt_tokens = f.Int32("prompt_tokens", 0);
    c.finish = f.Word("finish", kFinishWords);
    c.nonfinite_logits = f.Int("nonfinite_logits", 0);
    return SampleEvent{std::move(c)};
  }
  if (type == "oom") {
    OutOfMemoryEvent e;
    e.phase = f.Word("phase", kPhaseWords);
    e.device = f.Text("device");
    e.requested_bytes = f.Int("requested_bytes", 0);
    e.available_bytes = f.Int("available_bytes", 0);
    e.what = f.Text("what");
    return e;
  }
  if (type == "error") {
    ErrorEvent e;
    e.kind = f.Word("kind", kErrorKindWords);
    e.message = f.Text("message");
    return e;
  }
  if (type == "result") return ReadResult(f, problem);
  *problem = "an unknown event type";
  return HeartbeatEvent{};
}

// Parses a line, checks its version and calls read(type, fields, problem) for the rest.
template <typename T, typename Read>
Result<T> Decode(std::string_view line, Read read) {
  if (line.size() > kMaxLineBytes) {
    return Error{"a line of " + std::to_string(line.size()) + " bytes, more than " +
                 std::to_string(kMaxLineBytes)};
  }
  // Both would pass the library: it skips the mark, and takes a NUL for the end of the text.
  if (line.starts_with("\xEF\xBB\xBF")) return Error{"not JSON at byte 1: a byte order mark"};
  if (const size_t nul = line.find('\0'); nul != std::string_view::npos) {
    return Error{"not JSON at byte " + std::to_string(nul + 1) + ": a NUL byte"};
  }
  Screen screen;
  if (!Json::sax_parse(line, &screen)) return Error{screen.TakeProblem()};
  const Json root = Json::parse(line, nullptr, /*allow_exceptions=*/false);

  std::string problem;
  const Fields fields(root, "", &problem);
  const int64_t version = fields.Int("v", 0);
  if (problem.empty() && version != kProtocolVersion) {
    problem =
        "protocol version " + std::to_string(version) + ", not " + std::to_string(kProtocolVersion);
  }
  const std::string type = fields.Text("type");
  if (!problem.empty()) return Error{std::move(problem)};
  T message = read(type, fields, &problem);
  if (problem.empty()) return message;
  return Error{OneLine(type, kMaxQuoted) + ": " + problem};
}

}  // namespace

Result<Job> DecodeJob(std::string_view line) {
  return Decode<Job>(line,
                     [](const std::string& type, const Fields& f, std::string* problem) -> Job {
                       if (type == "measure") {
                         MeasureJob job;
                         job.model_dir = f.Text("model_dir");
                         job.table_folder = f.Text("table_folder");
                         job.deployment = ReadDeployment(f.Object("deployment"));
                         job.mode = f.Text("mode");
                         return job;
                       }
                       if (type == "trial") {
                         TrialJob job;
                         job.model_dir = f.Text("model_dir");
                         job.plan_json = f.Text("plan_json");
                         job.deployment = ReadDeployment(f.Object("deployment"));
                         job.memory_cap_bytes = f.Int("memory_cap_bytes", 0);
                         job.needed_free_bytes = f.Int("needed_free_bytes", 0);
                         job.idle_wait_seconds = f.Measured("idle_wait_seconds");
                         job.fingerprint = f.Text("fingerprint");
                         job.rendezvous = f.Text("rendezvous");
                         return job;
                       }
                       *problem = "an unknown job type";
                       return TrialJob{};
                     });
}

Result<Command> DecodeCommand(std::string_view line) {
  return Decode<Command>(
      line, [](const std::string& type, const Fields& f, std::string* problem) -> Command {
        if (type == "generate") {
          return GenerateCommand{f.Objects<evals::GenerationRequest>("requests", ReadRequest)};
        }
        if (type == "cancel") return CancelCommand{};
        if (type == "throughput") {
          const Fields s = f.Object("spec");
          ThroughputCommand command;
          command.spec.prompt_tokens = s.Int32("prompt_tokens", 1);
          command.spec.short_decode_tokens = s.Int32("short_decode_tokens", 1);
          command.spec.long_decode_tokens = s.Int32("long_decode_tokens", 1);
          command.spec.batch = s.Int32("batch", 1);
          command.spec.repetitions = s.Int32("repetitions", 1);
          command.spec.warmups = s.Int32("warmups", 0);
          return command;
        }
        if (type == "finish") return FinishCommand{};
        *problem = "an unknown command type";
        return FinishCommand{};
      });
}

Result<Event> DecodeEvent(std::string_view line) {
  return Decode<Event>(line, [](const std::string& type, const Fields& f, std::string* problem) {
    Event event;
    event.seq = f.Int("seq", 0);
    event.t = f.Number("t", 0, std::numeric_limits<double>::max());
    event.body = ReadBody(type, f, problem);
    return event;
  });
}

}  // namespace hproc::worker
