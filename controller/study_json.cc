#include "controller/study_json.h"

#include <cmath>
#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>

#include "base/printable.h"

namespace hproc::controller {
namespace {

using Json = nlohmann::ordered_json;  // keys stay in the order of the structs

// ---- names of the enums ------------------------------------------------------------------------

std::string_view NameOf(TrialKind kind) { return TrialKindName(kind); }
std::string_view NameOf(TrialState state) { return TrialStateName(state); }
std::string_view NameOf(StudyState state) { return StudyStateName(state); }
std::string_view NameOf(Reason reason) { return ReasonName(reason); }
std::string_view NameOf(evals::FinishReason reason) { return evals::FinishReasonName(reason); }
std::string_view NameOf(evals::ThroughputKind kind) { return evals::ThroughputKindName(kind); }

template <typename E>
std::optional<E> FromName(std::string_view name) {
  if constexpr (std::same_as<E, TrialKind>) return TrialKindFromName(name);
  if constexpr (std::same_as<E, TrialState>) return TrialStateFromName(name);
  if constexpr (std::same_as<E, StudyState>) return StudyStateFromName(name);
  if constexpr (std::same_as<E, Reason>) return ReasonFromName(name);
  if constexpr (std::same_as<E, evals::FinishReason>) return evals::FinishReasonFromName(name);
  if constexpr (std::same_as<E, evals::ThroughputKind>) return evals::ThroughputKindFromName(name);
}

// ---- fields ------------------------------------------------------------------------------------
// One list of fields per struct serves writing (visit is a Writer, S is const) and reading. The
// structured binding names every field, so that one added to the struct stops the build here.

template <typename S, typename T>
concept Like = std::same_as<std::remove_const_t<S>, T>;

template <typename V, Like<quant::Floors> S>
void Fields(V& visit, S& s) {
  auto& [strict, lazy, head] = s;
  visit("strict", strict);
  visit("lazy", lazy);
  visit("head", head);
}

template <typename V, Like<worker::Deployment> S>
void Fields(V& visit, S& s) {
  auto& [device, threads, rank, world_size, context, batch, prefill_chunk, kv_dtype] = s;
  visit("device", device);
  visit("threads", threads);
  visit("rank", rank);
  visit("world_size", world_size);
  visit("context", context);
  visit("batch", batch);
  visit("prefill_chunk", prefill_chunk);
  visit("kv_dtype", kv_dtype);
}

template <typename V, Like<EvalProtocol> S>
void Fields(V& visit, S& s) {
  auto& [task_id, tasks_path, shots_path, tasks_sha256, shots_sha256, shots, limit, seeds, order_seed,
         max_new_tokens] = s;
  visit("task_id", task_id);
  visit("tasks_path", tasks_path);
  visit("shots_path", shots_path);
  visit("tasks_sha256", tasks_sha256);
  visit("shots_sha256", shots_sha256);
  visit("shots", shots);
  visit("limit", limit);
  visit("seeds", seeds);
  visit("order_seed", order_seed);
  visit("max_new_tokens", max_new_tokens);
}

template <typename V, Like<LaunchSpec> S>
void Fields(V& visit, S& s) {
  auto& [launcher, slurm_args, parallel] = s;
  visit("launcher", launcher);
  visit("slurm_args", slurm_args);
  visit("parallel", parallel);
}

template <typename V, Like<StudySpec> S>
void Fields(V& visit, S& s) {
  auto& [name, model_dir, fingerprint, deployment, memory_cap_bytes, headroom_bytes, mode, strategy,
         lowest, highest, min_accuracy, max_candidates, max_garbage_loads, trust_plan, baselines, launch,
         eval, worker_version, device_name] = s;
  visit("name", name);
  visit("model_dir", model_dir);
  visit("fingerprint", fingerprint);
  visit("deployment", deployment);
  visit("memory_cap_bytes", memory_cap_bytes);
  visit("headroom_bytes", headroom_bytes);
  visit("mode", mode);
  visit("strategy", strategy);
  visit("lowest", lowest);
  visit("highest", highest);
  visit("min_accuracy", min_accuracy);
  visit("max_candidates", max_candidates);
  visit("max_garbage_loads", max_garbage_loads);
  visit("trust_plan", trust_plan);
  visit("baselines", baselines);
  visit("launch", launch);
  visit("eval", eval);
  visit("worker_version", worker_version);
  visit("device_name", device_name);
}

template <typename V, Like<Study> S>
void Fields(V& visit, S& s) {
  auto& [id, spec, state, created_utc, outcome_json, measure_json, calibration_json] = s;
  visit("id", id);
  visit("spec", spec);
  visit("state", state);
  visit("created_utc", created_utc);
  visit("outcome_json", outcome_json);
  visit("measure_json", measure_json);
  visit("calibration_json", calibration_json);
}

template <typename V, Like<Verdict> S>
void Fields(V& visit, S& s) {
  auto& [reason, phase, device, short_bytes, message] = s;
  visit("reason", reason);
  visit("phase", phase);
  visit("device", device);
  visit("short_bytes", short_bytes);
  visit("message", message);
}

template <typename V, Like<Answer> S>
void Fields(V& visit, S& s) {
  auto& [stage, question, seed, prompt_sha256, text, strict, flexible, strict_correct,
         flexible_correct, finish, prompt_tokens, generated_tokens] = s;
  visit("stage", stage);
  visit("question", question);
  visit("seed", seed);
  visit("prompt_sha256", prompt_sha256);
  visit("text", text);
  visit("strict", strict);
  visit("flexible", flexible);
  visit("strict_correct", strict_correct);
  visit("flexible_correct", flexible_correct);
  visit("finish", finish);
  visit("prompt_tokens", prompt_tokens);
  visit("generated_tokens", generated_tokens);
}

template <typename V, Like<AccuracyTally> S>
void Fields(V& visit, S& s) {
  auto& [total, strict_correct, flexible_correct, invalid, truncated, strict_by_seed, strict_squares, all_questions] = s;
  visit("total", total);
  visit("strict_correct", strict_correct);
  visit("flexible_correct", flexible_correct);
  visit("invalid", invalid);
  visit("truncated", truncated);
  visit("strict_by_seed", strict_by_seed);
  visit("strict_squares", strict_squares);
  visit("all_questions", all_questions);
}

template <typename V, Like<worker::FamilyReport> S>
void Fields(V& visit, S& s) {
  auto& [family, weights, bytes, min_cosine, mean_cosine, min_norm_ratio, max_norm_ratio] = s;
  visit("family", family);
  visit("weights", weights);
  visit("bytes", bytes);
  visit("min_cosine", min_cosine);
  visit("mean_cosine", mean_cosine);
  visit("min_norm_ratio", min_norm_ratio);
  visit("max_norm_ratio", max_norm_ratio);
}

template <typename V, Like<worker::LoadResult> S>
void Fields(V& visit, S& s) {
  auto& [plan_digest, weight_bytes, bits_per_weight, seconds, families] = s;
  visit("plan_digest", plan_digest);
  visit("weight_bytes", weight_bytes);
  visit("bits_per_weight", bits_per_weight);
  visit("seconds", seconds);
  visit("families", families);
}

template <typename V, Like<worker::LedgerLine> S>
void Fields(V& visit, S& s) {
  auto& [name, bytes] = s;
  visit("name", name);
  visit("bytes", bytes);
}

template <typename V, Like<worker::MemoryEvent> S>
void Fields(V& visit, S& s) {
  auto& [device, live_bytes, peak_bytes, cap_bytes, lines] = s;
  visit("device", device);
  visit("live_bytes", live_bytes);
  visit("peak_bytes", peak_bytes);
  visit("cap_bytes", cap_bytes);
  visit("lines", lines);
}

template <typename V, Like<evals::ThroughputSample> S>
void Fields(V& visit, S& s) {
  auto& [kind, repetition, tokens, batch, seconds] = s;
  visit("kind", kind);
  visit("repetition", repetition);
  visit("tokens", tokens);
  visit("batch", batch);
  visit("seconds", seconds);
}

template <typename V, Like<std::pair<std::string, double>> S>
void Fields(V& visit, S& s) {  // of TrialMeasurements::phase_seconds
  auto& [phase, seconds] = s;
  visit("phase", phase);
  visit("seconds", seconds);
}

template <typename V, Like<TrialMeasurements> S>
void Fields(V& visit, S& s) {
  auto& [load, memory, ranks, predicted, accuracy, throughput, phase_seconds] = s;
  visit("load", load);
  visit("memory", memory);
  visit("ranks", ranks);
  visit("predicted", predicted);
  visit("accuracy", accuracy);
  visit("throughput", throughput);
  visit("phase_seconds", phase_seconds);
}

template <typename V, Like<NewTrial> S>
void Fields(V& visit, S& s) {
  auto& [kind, floors, plan_digest, plan_json, predicted_bytes, predicted_weight_bytes,
         bits_per_weight, purpose] = s;
  visit("kind", kind);
  visit("floors", floors);
  visit("plan_digest", plan_digest);
  visit("plan_json", plan_json);
  visit("predicted_bytes", predicted_bytes);
  visit("predicted_weight_bytes", predicted_weight_bytes);
  visit("bits_per_weight", bits_per_weight);
  visit("purpose", purpose);
}

template <typename V, Like<Attempt> S>
void Fields(V& visit, S& s) {
  auto& [number, started_utc, ended_utc, verdict, log_path] = s;
  visit("number", number);
  visit("started_utc", started_utc);
  visit("ended_utc", ended_utc);
  visit("verdict", verdict);
  visit("log_path", log_path);
}

template <typename V, Like<Trial> S>
void Fields(V& visit, S& s) {
  auto& [id, number, study_id, plan, state, verdict, attempts, measured, created_utc,
         finished_utc] = s;
  visit("id", id);
  visit("number", number);
  visit("study_id", study_id);
  visit("plan", plan);
  visit("state", state);
  visit("verdict", verdict);
  visit("attempts", attempts);
  visit("measured", measured);
  visit("created_utc", created_utc);
  visit("finished_utc", finished_utc);
}

template <typename V, Like<BoundaryNeighbour> S>
void Fields(V& visit, S& s) {
  auto& [floors, predicted_bytes, verdict] = s;
  visit("floors", floors);
  visit("predicted_bytes", predicted_bytes);
  visit("verdict", verdict);
}

template <typename V, Like<OperatingPoint> S>
void Fields(V& visit, S& s) {
  auto& [schema_version, study, created_utc, floors, plan_digest, plan_json, bits_per_weight,
         predicted_bytes, bound, why, spec, load, memory, predicted, accuracy, outcomes, throughput,
         neighbours] = s;
  visit("schema_version", schema_version);
  visit("study", study);
  visit("created_utc", created_utc);
  visit("floors", floors);
  visit("plan_digest", plan_digest);
  visit("plan_json", plan_json);
  visit("bits_per_weight", bits_per_weight);
  visit("predicted_bytes", predicted_bytes);
  visit("bound", bound);
  visit("why", why);
  visit("spec", spec);
  visit("load", load);
  visit("memory", memory);
  visit("predicted", predicted);
  visit("accuracy", accuracy);
  visit("outcomes", outcomes);
  visit("throughput", throughput);
  visit("neighbours", neighbours);
}

// ---- writing -----------------------------------------------------------------------------------

struct Writer {
  template <typename T>
  void operator()(const char* key, const T& value) {
    object[key] = Value(value);
  }

  template <typename T>
  static Json Value(const T& value) {
    if constexpr (std::same_as<T, double>) {
      return std::isfinite(value) ? Json(value) : Json(nullptr);
    } else if constexpr (std::is_enum_v<T>) {
      return NameOf(value);
    } else if constexpr (std::is_arithmetic_v<T> || std::same_as<T, std::string>) {
      return value;
    } else {
      Writer nested;
      Fields(nested, value);
      return std::move(nested.object);
    }
  }

  template <typename T>
  static Json Value(const std::optional<T>& value) {
    return value ? Value(*value) : Json(nullptr);
  }

  template <typename T>
  static Json Value(const std::vector<T>& values) {
    Json array = Json::array();
    for (const T& value : values) array.push_back(Value(value));
    return array;
  }

  Json object = Json::object();
};

template <typename T>
std::string Write(const T& value) {
  return Writer::Value(value).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// ---- reading -----------------------------------------------------------------------------------

// Thrown while reading, caught in Read: `path` grows on the way out.
struct Malformed {
  std::string path;
  std::string what;
};

[[noreturn]] void Expected(std::string_view what, const Json& found) {
  throw Malformed{"", "expected " + std::string(what) + ", found " +
                          (found.is_primitive() && !found.is_string() ? found.dump()
                           : found.is_string()                        ? "a string"
                                                                      : found.type_name())};
}

struct Reader {
  template <typename T>
  void operator()(const char* key, T& value) {
    const auto it = object.find(key);
    if (it == object.end()) throw Malformed{key, "missing"};
    seen.insert(key);
    try {
      Value(*it, value);
    } catch (Malformed& error) {
      const bool index = !error.path.empty() && error.path.front() == '[';
      error.path = key + (error.path.empty() || index ? error.path : "." + error.path);
      throw;
    }
  }

  void NoOtherKeys() const {
    for (const auto& [key, value] : object.items()) {
      if (!seen.contains(key)) throw Malformed{Printable(key), "not known here"};
    }
  }

  template <typename T>
  static void Value(const Json& json, T& value) {
    if constexpr (std::same_as<T, bool>) {
      if (!json.is_boolean()) Expected("true or false", json);
      value = json.get<bool>();
    } else if constexpr (std::same_as<T, double>) {
      if (!json.is_number() && !json.is_null()) Expected("a number", json);
      value = json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
    } else if constexpr (std::integral<T>) {
      if (!json.is_number_integer()) Expected("a whole number", json);
      const bool in_range = json.is_number_unsigned() ? std::in_range<T>(json.get<uint64_t>())
                                                      : std::in_range<T>(json.get<int64_t>());
      if (!in_range) throw Malformed{"", json.dump() + " is out of range"};
      value = json.get<T>();
    } else if constexpr (std::same_as<T, std::string>) {
      if (!json.is_string()) Expected("a string", json);
      value = json.get_ref<const std::string&>();
    } else if constexpr (std::is_enum_v<T>) {
      if (!json.is_string()) Expected("a name", json);
      const std::optional<T> named = FromName<T>(json.get_ref<const std::string&>());
      if (!named) throw Malformed{"", "\"" + Printable(json.get_ref<const std::string&>()) + "\" is no such name"};
      value = *named;
    } else {
      if (!json.is_object()) Expected("an object", json);
      Reader nested{json, {}};
      Fields(nested, value);
      nested.NoOtherKeys();
    }
  }

  template <typename T>
  static void Value(const Json& json, std::optional<T>& value) {
    value.reset();
    if (!json.is_null()) Value(json, value.emplace());
  }

  template <typename T>
  static void Value(const Json& json, std::vector<T>& values) {
    if (!json.is_array()) Expected("an array", json);
    values.clear();
    for (const Json& element : json) {
      try {
        Value(element, values.emplace_back());
      } catch (Malformed& error) {
        const std::string index = "[" + std::to_string(values.size() - 1) + "]";
        error.path = index + (error.path.empty() ? "" : "." + error.path);
        throw;
      }
    }
  }

  const Json& object;
  std::set<std::string, std::less<>> seen;
};

// The parser keeps the last of two equal keys; which one was meant is anybody's guess, so both are
// refused.
Json ParseWithoutDuplicates(std::string_view text) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&keys](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get<std::string>()).second) {
      throw Malformed{Printable(parsed.get<std::string>()), "occurs twice"};
    }
    return true;
  };
  return Json::parse(text, watch);
}

template <typename T>
Result<T> Read(std::string_view text) {
  try {
    T value;
    Reader::Value(ParseWithoutDuplicates(text), value);
    return value;
  } catch (const Malformed& error) {
    return Error{error.path.empty() ? error.what : error.path + ": " + error.what};
  } catch (const Json::parse_error& error) {
    return Error{"not JSON, from byte " + std::to_string(error.byte)};
  }
}

}  // namespace

std::string ToJson(const StudySpec& spec) { return Write(spec); }
std::string ToJson(const Study& study) { return Write(study); }
std::string ToJson(const Verdict& verdict) { return Write(verdict); }
std::string ToJson(const Answer& answer) { return Write(answer); }
std::string ToJson(const AccuracyTally& tally) { return Write(tally); }
std::string ToJson(const TrialMeasurements& measured) { return Write(measured); }
std::string ToJson(const Attempt& attempt) { return Write(attempt); }
std::string ToJson(const OperatingPoint& point) { return Write(point); }
std::string ToJson(const Trial& trial) { return Write(trial); }

Result<StudySpec> StudySpecFromJson(std::string_view text) { return Read<StudySpec>(text); }
Result<Study> StudyFromJson(std::string_view text) { return Read<Study>(text); }
Result<Verdict> VerdictFromJson(std::string_view text) { return Read<Verdict>(text); }
Result<Answer> AnswerFromJson(std::string_view text) { return Read<Answer>(text); }
Result<AccuracyTally> AccuracyTallyFromJson(std::string_view text) {
  return Read<AccuracyTally>(text);
}
Result<TrialMeasurements> TrialMeasurementsFromJson(std::string_view text) {
  return Read<TrialMeasurements>(text);
}
Result<Attempt> AttemptFromJson(std::string_view text) { return Read<Attempt>(text); }
Result<Trial> TrialFromJson(std::string_view text) { return Read<Trial>(text); }
Result<OperatingPoint> OperatingPointFieldsFromJson(std::string_view text) {
  return Read<OperatingPoint>(text);
}

}  // namespace hproc::controller
