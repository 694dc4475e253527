// What a study is made of: the words of the store, the JSON views and the search. Plain data; thread-compatible.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "evals/answer.h"
#include "evals/eval_protocol.h"
#include "evals/throughput.h"
#include "quant/floors.h"
#include "worker/protocol.h"

namespace hproc::controller {

// Why a study whose spec does not judge has no accuracy.
inline constexpr std::string_view kNoQuestions = "random weights answer no questions";

using evals::AccuracyTally;
using evals::Answer;
using evals::EvalProtocol;

// What a trial loads. Baselines are trials of the same study, judged by the same questions.
enum class TrialKind { kPoint, kBaseline16Bit, kBaselineInt4, kBaselineInt4Pruned };

// waiting ──▶ running ──▶ complete | infeasible | failed
// States only move forward and the last three are frozen. A worker that dies of something that says nothing about the
// point ends an attempt, not the trial: the trial stays running, gets a second attempt, and fails after that. A trial
// found running by a controller that holds the study's lock is one whose controller died: it gets a further attempt.
enum class TrialState { kWaiting, kRunning, kComplete, kInfeasible, kFailed };

enum class Reason {
  kNone,
  // infeasible: a result, never retried
  kOutOfMemory,
  kGarbageOutput,
  // failed: says nothing about the point
  kCrash,
  kHang,
  kTimeout,
  kKilled,
  kHostOutOfMemory,
  kContaminated,
  kLoaderFault,
  kProtocolError,
  kDeviceLost,
  kNodeLost,     // the machine it ran on, or the connection to it
  kNotLaunched,  // the scheduler would not run it, or gave no answer
  kInterrupted,  // of an attempt: the controller stopped or died
};

std::string_view TrialKindName(TrialKind kind);    // "point", "baseline_16bit", "baseline_int4", …
std::string_view TrialStateName(TrialState state);  // "waiting", …
std::string_view ReasonName(Reason reason);        // "none", "out_of_memory", …
std::optional<TrialKind> TrialKindFromName(std::string_view name);
std::optional<TrialState> TrialStateFromName(std::string_view name);
std::optional<Reason> ReasonFromName(std::string_view name);

// How a trial or an attempt ended.
struct Verdict {
  Reason reason = Reason::kNone;
  std::string phase;          // where it ended: "load", "cache", "warmup", "probe", …; empty when complete
  std::string device;         // the device that ran out; otherwise the node, where Slurm ran it, on which it failed or was completed
  int64_t short_bytes = 0;    // what it lacked there
  std::string message;        // one line for people: the tensor, the garbage rule, the signal

  bool operator==(const Verdict&) const = default;
};

// Where the trials of a study are run, and how many of them at once. Nothing that is found depends on it; a resumed study
// may be launched in another way.
struct LaunchSpec {
  std::string launcher = "local";       // "local", "slurm" (controller/launcher.h)
  std::vector<std::string> slurm_args;  // of srun, one argument each
  int parallel = 1;                     // trials in flight, at most

  bool operator==(const LaunchSpec&) const = default;
};

// Everything that fixes a study. Written once.
struct StudySpec {
  std::string name;
  std::string model_dir;
  std::string fingerprint;  // of the checkpoint
  worker::Deployment deployment;
  int64_t memory_cap_bytes = 0;   // per device
  int64_t headroom_bytes = 0;     // asked for beyond the target context and batch
  std::string mode = "auto";      // "v2", "v2a", "auto"
  std::string strategy = "predict";
  quant::Floors lowest{.strict = 0.8, .lazy = 0.5, .head = 0.999};  // the operator's bounds
  quant::Floors highest{.strict = 1, .lazy = 1, .head = 0.999};
  double min_accuracy = 0;  // strict-match rate below which a point is not wanted; 0: no such bound
  int max_candidates = 5;     // points whose answers are looked at
  int max_garbage_loads = 6;  // loads spent on finding where garbage begins
  bool trust_plan = false;    // no loads to confirm what the plan predicts
  std::vector<TrialKind> baselines;  // run after the search for comparison, whether or not they fit the cap
  LaunchSpec launch;                 // as it was begun
  EvalProtocol eval;
  std::string worker_version;
  std::string device_name;

  // What a point may hold: the cap less the headroom asked for.
  int64_t budget_bytes() const { return memory_cap_bytes - headroom_bytes; }
  // Whether answers are looked at. A model of random weights has no questions to answer: its points are loaded and timed.
  bool judges() const { return !eval.tasks_path.empty(); }
  bool operator==(const StudySpec&) const = default;
};

enum class StudyState { kRunning, kInterrupted, kDone };
std::string_view StudyStateName(StudyState state);
std::optional<StudyState> StudyStateFromName(std::string_view name);

struct Study {
  int64_t id = 0;
  StudySpec spec;
  StudyState state = StudyState::kRunning;
  std::string created_utc;   // RFC 3339
  std::string outcome_json;  // what `tune --json` printed last; empty until done
  std::string measure_json;  // result:measure of the rate table pass; empty until known
  std::string calibration_json;  // of the garbage rules, by the reference trial; empty until known
};

// What a trial measured. Everything optional is null until its phase was reached.
struct TrialMeasurements {
  std::optional<worker::LoadResult> load;
  std::optional<worker::MemoryEvent> memory;  // after warmup, or at the refusal; of several devices, the tightest's
  std::vector<worker::MemoryEvent> ranks;     // of several ranks each one's, by rank, as far as they told
  std::vector<worker::LedgerLine> predicted;
  AccuracyTally accuracy;
  std::vector<evals::ThroughputSample> throughput;
  std::vector<std::pair<std::string, double>> phase_seconds;
};

struct NewTrial {
  TrialKind kind = TrialKind::kPoint;
  quant::Floors floors;
  std::string plan_digest;
  std::string plan_json;
  int64_t predicted_bytes = 0;         // on the tightest device, everything counted
  int64_t predicted_weight_bytes = 0;
  double bits_per_weight = 0;
  std::string purpose;  // why the search asked: "candidate", "outside_strict", … (controller/search.h)
};

struct Attempt {
  int number = 0;  // from 1
  std::string started_utc;
  std::string ended_utc;  // empty while it runs
  Verdict verdict;
  std::string log_path;   // the worker's stderr
};

struct Trial {
  int64_t id = 0;   // of the row
  int number = 0;   // within the study, from 0
  int64_t study_id = 0;
  NewTrial plan;
  TrialState state = TrialState::kWaiting;
  Verdict verdict;
  std::vector<Attempt> attempts;
  TrialMeasurements measured;
  std::string created_utc;
  std::string finished_utc;
};

}  // namespace hproc::controller
