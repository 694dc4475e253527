// The messages between the controller and one worker process, and their JSON-lines form.
//
//   controller                                   worker (one process a rank, one trial a process)
//     argv: --events-fd N
//     stdin  ── job line, then command lines ──▶   EOF on stdin = the controller is gone: exit at once
//     pipe N ◀── event lines ───────────────────   events only; nothing else is ever written there
//     pipe   ◀── stderr ────────────────────────   logs; drained by the controller into a bounded file
//
// A trial over several ranks is one worker each. Rank 0's run is as drawn below; the others load their part, answer
// result:ready and do what rank 0 tells them, past the controller (worker/communicator.h), until each is told to finish. A
// rank that finds another one gone ends with an `error`, rank_lost, which says nothing of itself.
//
// A run of a trial job:
//
//   job ▶ hello ◀ phase init ◀ phase load (progress…) ◀ mem ◀ result:load ◀ phase cache ◀ phase warmup ◀ mem ◀ result:ready
//   generate ▶  sample ◀ … sample ◀ result:generate          (any number of times; cancel ▶ ends one early)
//   throughput ▶ result:throughput
//   finish ▶ result:exit ◀, exit code 0
//
// `oom` or `error` instead of a result ends the run; the worker then exits with kExitReported. A `heartbeat` comes from
// a thread of its own every kHeartbeatPeriod; its counter grows only when the working thread gets on, so that a hang
// shows although the heart beats.
//
// `hello` is the first event and `oom`, `error` or `result:exit` the last: no heartbeat goes before or after them. A
// `generate` without a `cancel` is answered by one sample for each request; after a `cancel` the rest may be missing or
// come with FinishReason::kCancelled. Phases do not nest, and results come between them; generate and throughput need no
// phase events, the command opens their phase.
//
// A line is one JSON object of at most kMaxLineBytes, ended by '\n', the '\n' not counted. Every line carries "v"
// (kProtocolVersion) and "type"; every event also "seq" (from 0, without gaps) and "t" (seconds since the worker
// started, monotonic clock). All keys of a type are required; unknown keys are ignored, unknown types are errors: a
// worker that lies is found out, a newer worker within one version is not. What was measured and is not finite (a
// cosine of 0/0, a time never taken) goes as null and comes back as NaN; nothing else may be null.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "evals/generator.h"
#include "evals/throughput.h"

namespace hproc::worker {

inline constexpr int kProtocolVersion = 1;
inline constexpr size_t kMaxLineBytes = size_t{64} << 20;  // a plan of some thousand tensors fits many times
inline constexpr std::chrono::milliseconds kHeartbeatPeriod{500};

// Exit codes of hproc-worker. Anything else, or a signal, is a crash.
enum WorkerExit : int {
  kExitOk = 0,
  kExitUsage = 2,
  kExitReported = 4,        // an `oom` or `error` event says why
  kExitControllerGone = 5,  // stdin reached EOF
};

enum class Phase { kInit, kMeasure, kLoad, kCache, kWarmup, kGenerate, kThroughput };
inline constexpr int kPhaseCount = 7;

// "init", "measure", …; the words of the store and the reports.
std::string_view PhaseName(Phase phase);
std::optional<Phase> PhaseFromName(std::string_view name);

// ---- controller to worker ----------------------------------------------------------------------------------------

// What memory is to hold besides the weights; the same numbers for prediction and for the run.
struct Deployment {
  std::string device = "cpu";  // "cpu", "cuda" (the first) or "cuda:N"; of a measure job and a study all ranks' (worker/devices.h)
  int threads = 0;             // CPU threads of all ranks; 0: all the machine allows this process
  int rank = 0;
  int world_size = 1;
  int context = 0;       // tokens a sequence may hold, prompt and answer; >= 1
  int batch = 1;         // sequences decoded together
  int prefill_chunk = 0;  // prompt tokens run at once; 0: the worker's default
  std::string kv_dtype = "f16";  // "f16", "f32", "i8"

  bool operator==(const Deployment&) const = default;
};

// Makes sure that `table_folder` holds the rate table (quant/rate_table.h) of the checkpoint, which it is found by, with the
// rates of `mode`: reads the checkpoint once and writes the table, or finds it there. What the table has of another mode
// stays. Answers result:measure and waits for finish.
struct MeasureJob {
  std::string model_dir;
  std::string table_folder;
  Deployment deployment;
  std::string mode = "auto";  // quant::ModePolicyFromName
};

// Loads the checkpoint under a plan and serves it.
struct TrialJob {
  std::string model_dir;
  std::string plan_json;  // quant/plan.h, PlanToJson
  Deployment deployment;
  int64_t memory_cap_bytes = 0;  // on this rank's device; 0: no cap but the device's own
  // The idle gate (worker/idle_gate.h): the trial begins when so many bytes of the device are free, or fails as
  // contaminated after the wait.
  int64_t needed_free_bytes = 0;
  double idle_wait_seconds = 0;
  std::string fingerprint;  // of the checkpoint that the plan was made for; another one is refused; empty: any
  std::string rendezvous;  // where the ranks meet (worker/communicator.h); empty where there is one
};

using Job = std::variant<MeasureJob, TrialJob>;

struct GenerateCommand {
  std::vector<evals::GenerationRequest> requests;
};
struct CancelCommand {};  // ends the generate in progress; without one it is ignored
struct ThroughputCommand {
  evals::ThroughputSpec spec;
};
struct FinishCommand {};

using Command = std::variant<GenerateCommand, CancelCommand, ThroughputCommand, FinishCommand>;

// ---- worker to controller ----------------------------------------------------------------------------------------

struct HelloEvent {
  int64_t pid = 0;
  std::string worker_version;
  std::string device_name;  // "AMD EPYC …, 2 threads, AVX3_DL"
  int rank = 0;
  int world_size = 1;
};

struct PhaseEvent {
  Phase phase{};
  bool begin = true;
  double seconds = 0;  // how long it took, where begin is false
};

struct ProgressEvent {
  Phase phase{};
  int64_t done = 0;
  int64_t total = 0;
  std::string unit;  // "bytes", "tokens", "tensors"
};

struct HeartbeatEvent {
  int64_t counter = 0;
};

// One line of the memory ledger of one device. Lines are disjoint and add up to the device's use, except those whose
// name ends in _peak.
struct LedgerLine {
  std::string name;  // weights_strict, weights_lazy, weights_head, weights_kept, outliers, codebooks, kv_cache, state,
                     // activations, workspace_peak, context, communicator, unattributed
  int64_t bytes = 0;

  bool operator==(const LedgerLine&) const = default;
};

struct MemoryEvent {
  std::string device;
  int64_t live_bytes = 0;
  int64_t peak_bytes = 0;
  int64_t cap_bytes = 0;
  std::vector<LedgerLine> lines;
};

struct SampleEvent {
  evals::Completion completion;
};

// An allocation that the cap or the device refused. Infeasible, not failed.
struct OutOfMemoryEvent {
  Phase phase{};
  std::string device;
  int64_t requested_bytes = 0;
  int64_t available_bytes = 0;
  std::string what;  // the tensor or buffer it was for
};

enum class ErrorKind {
  kBadJob,  // asks for what there is not: a device, a context beyond the model's, another checkpoint's plan
  kBadCheckpoint,   // the files are broken, unknown or unreadable
  kLoaderFault,     // the checkpoint does not match the model: a missing, extra or misshapen tensor
  kHostOutOfMemory,  // host, not device, memory ran out
  kContaminated,     // others hold memory of the device that was free when the study began
  kDeviceLost,
  kRankLost,  // another rank of the trial is gone, was refused memory, or keeps this one waiting
  kInternal,
};
std::string_view ErrorKindName(ErrorKind kind);
std::optional<ErrorKind> ErrorKindFromName(std::string_view name);

struct ErrorEvent {
  ErrorKind kind{};
  std::string message;  // one line
};

// How much of a tensor a rank holds, in the order of the plan's tensors.
struct PartSize {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t first_column = 0;

  bool operator==(const PartSize&) const = default;
};

// What one of several ranks will hold.
struct RankForecast {
  std::string device;
  int64_t free_bytes = 0;  // as MeasureResult::device_free_bytes
  std::vector<LedgerLine> predicted;
  std::vector<PartSize> parts;

  bool operator==(const RankForecast&) const = default;
};

struct MeasureResult {
  std::string table_path;
  bool reused = false;      // the table was there already
  std::string fingerprint;  // of the checkpoint; also inside the table
  int64_t allocation_granularity = 1;  // allocations are counted in multiples of this
  int64_t device_free_bytes = 0;       // of the device with nothing of ours on it; 0: the system does not say
  // Bytes besides the weights for the job's deployment, line by line as the ledger will name them. A workspace_peak is
  // gone before the cache is there: weights and it, or weights and all the rest, must fit.
  std::vector<LedgerLine> predicted;
  std::vector<RankForecast> ranks;  // by rank; empty where there is one. `predicted` and the bytes free are then rank 0's
  // By tensor '1' where the device keeps it in decode order, if its format makes that worth it (quant::ArrangedBytes), else '0';
  // empty: none.
  std::string arranged;
};

// What quantize-on-load did to one family of tensors.
struct FamilyReport {
  std::string family;  // strict, lazy, head, kept
  int64_t weights = 0;
  int64_t bytes = 0;
  double min_cosine = 1;   // over all channels
  double mean_cosine = 1;  // over channels, weighted equally
  double min_norm_ratio = 1;
  double max_norm_ratio = 1;
};

struct LoadResult {
  std::string plan_digest;  // computed by the worker from what it loaded
  int64_t weight_bytes = 0;
  double bits_per_weight = 0;
  double seconds = 0;
  std::vector<FamilyReport> families;
};

struct ReadyResult {};

struct GenerateResult {
  bool cancelled = false;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  double seconds = 0;
};

struct ThroughputResult {
  std::vector<evals::ThroughputSample> samples;
};

struct ExitResult {};

struct ResultEvent {
  std::variant<MeasureResult, LoadResult, ReadyResult, GenerateResult, ThroughputResult, ExitResult> result;
};

using EventBody = std::variant<HelloEvent, PhaseEvent, ProgressEvent, HeartbeatEvent, MemoryEvent, SampleEvent,
                               OutOfMemoryEvent, ErrorEvent, ResultEvent>;

struct Event {
  int64_t seq = 0;
  double t = 0;
  EventBody body;
};

// ---- JSON lines --------------------------------------------------------------------------------------------------

// One line, the '\n' included. Text that is not UTF-8 (a token split in the middle) is carried with U+FFFD in its place.
std::string EncodeJob(const Job& job);
std::string EncodeCommand(const Command& command);
std::string EncodeEvent(const Event& event);

// `line` without its '\n'. The error says what is wrong with the line in words fit for a protocol_error verdict: one
// line of printable UTF-8, the offending key named by its path ("generate: requests[3].max_new_tokens is 0, below 1").
// Never throws, and needs memory in proportion to the line: nesting and the number of values are bounded first.
Result<Job> DecodeJob(std::string_view line);
Result<Command> DecodeCommand(std::string_view line);
Result<Event> DecodeEvent(std::string_view line);

}  // namespace hproc::worker
