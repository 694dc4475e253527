#include "tests/controller/store_testing.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/check.h"
#include "base/sha256.h"
#include "controller/store_rules.h"
#include "controller/study_json.h"

namespace hproc::controller {

// ---- examples ----------------------------------------------------------------------------------

StudySpec ExampleSpec(const std::string& name) {
  return {
      .name = name,
      .model_dir = "/models/Ünïcode 模型",
      .fingerprint = "f1ngerpr1nt",
      .deployment = {.device = "cuda:GPU-1234",
                     .threads = 3,
                     .rank = 1,
                     .world_size = 2,
                     .context = 4096,
                     .batch = 8,
                     .prefill_chunk = 512,
                     .kv_dtype = "f32"},
      .memory_cap_bytes = 7'340'032,
      .headroom_bytes = 1'048'576,
      .mode = "v2a",
      .strategy = "walk",
      .lowest = {.strict = 0.81, .lazy = 0.52, .head = 0.993},
      .highest = {.strict = 0.9995, .lazy = 0.99, .head = 1},
      .min_accuracy = 0.25,
      .max_candidates = 7,
      .max_garbage_loads = 3,
      .trust_plan = true,
      .baselines = {TrialKind::kBaseline16Bit, TrialKind::kBaselineInt4},
      .eval = {.task_id = "gsm8k/3.0",
               .tasks_path = "tasks/test \"quoted\".jsonl",
               .shots_path = "tasks/train.jsonl",
               .tasks_sha256 = "1a5c0f",
               .shots_sha256 = "5407e5",
               .shots = 5,
               .limit = 200,
               .seeds = 3,
               .order_seed = 18'446'744'073'709'551'615U,
               .max_new_tokens = 1024},
      .worker_version = "0.1.0+abc",
      .device_name = "a device, 2 threads",
  };
}

NewTrial ExamplePlan(int n) {
  return {
      .kind = n % 5 == 4 ? TrialKind::kBaselineInt4 : TrialKind::kPoint,
      .floors = {.strict = 0.9 + n % 200 * 0.0005, .lazy = 0.8, .head = 0.999},
      .plan_digest = Sha256Hex("plan " + std::to_string(n)),
      .plan_json = R"({"tensors":[{"name":"a","k":6}],"n":)" + std::to_string(n) + "}",
      .predicted_bytes = 5'000'000'000 + n,
      .predicted_weight_bytes = 4'000'000'000 + n,
      .bits_per_weight = 3.0 + n / 1024.0,
      .purpose = "fit_edge_inside",
  };
}

TrialState ExampleState(int n) {
  switch (n % 3) {
    case 0:
      return TrialState::kComplete;
    case 1:
      return TrialState::kInfeasible;
    default:
      return TrialState::kFailed;
  }
}

Verdict ExampleVerdict(int n) {
  switch (ExampleState(n)) {
    case TrialState::kInfeasible:
      return {.reason = Reason::kOutOfMemory,
              .phase = "load",
              .device = "cuda:0",
              .short_bytes = 432'013'312 + n,
              .message = "model.layers.7.mlp.down_proj did not fit"};
    case TrialState::kFailed:
      return {.reason = Reason::kCrash,
              .phase = "warmup",
              .device = "",
              .short_bytes = 0,
              .message = "signal 11"};
    default:
      return {};
  }
}

TrialMeasurements ExampleMeasurements(int n) {
  TrialMeasurements measured;
  measured.load = worker::LoadResult{
      .plan_digest = ExamplePlan(n).plan_digest,
      .weight_bytes = 4'000'000'100 + n,
      .bits_per_weight = 3.5 + n,
      .seconds = 12.25,
      .families = {{.family = "strict",
                    .weights = 1'000 + n,
                    .bytes = 400,
                    .min_cosine = 0.9501,
                    .mean_cosine = 0.97,
                    .min_norm_ratio = 0.99,
                    .max_norm_ratio = 1.01},
                   {.family = "lazy", .weights = 9'000, .bytes = 2'000, .min_cosine = 0.8003}}};
  measured.memory = worker::MemoryEvent{.device = "cuda:0",
                                        .live_bytes = 5'000'000'000,
                                        .peak_bytes = 6'000'000'000 + n,
                                        .cap_bytes = 7'000'000'000,
                                        .lines = {{.name = "weights_strict", .bytes = 400},
                                                  {.name = "weights_lazy", .bytes = 2'000},
                                                  {.name = "kv_cache", .bytes = 77 + n}}};
  measured.ranks = {*measured.memory,
                    {.device = "cuda:1", .live_bytes = 5, .peak_bytes = 6, .cap_bytes = 7, .lines = {{.name = "state", .bytes = 3}}}};
  measured.predicted = {{.name = "weights_strict", .bytes = 401},
                        {.name = "kv_cache", .bytes = 77}};
  measured.accuracy = {.total = 1319,
                       .strict_correct = 880,
                       .flexible_correct = 890 + n % 7,
                       .invalid = 12,
                       .truncated = 3,
                       .strict_by_seed = {450 - n, 430 + n},
                       .strict_squares = 1700 + n,
                       .all_questions = true};
  for (int repetition = 0; repetition < 3; ++repetition) {
    measured.throughput.push_back({.kind = evals::ThroughputKind::kPrefill,
                                   .repetition = repetition,
                                   .tokens = 512,
                                   .batch = 1,
                                   .seconds = 0.125 + repetition});
    measured.throughput.push_back({.kind = evals::ThroughputKind::kLongDecode,
                                   .repetition = repetition,
                                   .tokens = 256,
                                   .batch = 1,
                                   .seconds = 2.5 + n});
  }
  measured.phase_seconds = {{"load", 12.25}, {"cache", 0.5}, {"warmup", 1.0 + n}};
  return measured;
}

Answer ExampleAnswer(int n, int question) {
  const std::string gold = std::to_string(question * 3);
  return {
      .stage = "full",
      .question = question,
      .seed = 0,
      .prompt_sha256 = Sha256Hex("prompt " + std::to_string(question)),
      .text = "Trial " + std::to_string(n) + " says\n#### " + gold,
      .strict = gold,
      .flexible = gold + ".",
      .strict_correct = question % 2 == 0,
      .flexible_correct = question % 3 == 0,
      .finish = question % 4 == 0 ? evals::FinishReason::kLength : evals::FinishReason::kStopText,
      .prompt_tokens = 700 + question,
      .generated_tokens = 90 + n % 50,
  };
}

std::vector<Answer> ExampleAnswers(int n, int first, int count) {
  std::vector<Answer> answers;
  for (int question = first; question < first + count; ++question) {
    answers.push_back(ExampleAnswer(n, question));
  }
  return answers;
}

std::string WhyNotWhole(const Trial& trial) {
  const int n = trial.number;
  const bool finished = IsFinished(trial.state);
  const std::string who = "trial " + std::to_string(n) + ": ";
  if (trial.plan.plan_digest != ExamplePlan(n).plan_digest) return who + "another plan";
  if (trial.plan.plan_json != ExamplePlan(n).plan_json) return who + "another plan's JSON";
  if (finished && trial.state != ExampleState(n)) return who + "another state";
  if (trial.verdict != (finished ? ExampleVerdict(n) : Verdict{})) return who + "another verdict";
  if (finished == trial.finished_utc.empty()) return who + "state and time of finishing differ";
  const TrialMeasurements measured = finished ? ExampleMeasurements(n) : TrialMeasurements{};
  if (ToJson(trial.measured) != ToJson(measured)) {
    return who + "state and measurements do not belong together";
  }
  if (trial.attempts.empty() != (trial.state == TrialState::kWaiting)) {
    return who + "state and attempts do not belong together";
  }
  for (const Attempt& attempt : trial.attempts) {
    // These writers end an attempt with its trial, or leave it to the next to find it interrupted.
    const bool last = attempt.number == static_cast<int>(trial.attempts.size());
    if (attempt.ended_utc.empty() != (last && !finished)) {
      return who + "state and attempts do not belong together";
    }
    const Verdict expected = last ? trial.verdict : InterruptedAttempt();
    if (attempt.verdict != expected) return who + "an attempt has another verdict";
  }
  return "";
}

Result<Trial> AddFinishedTrial(Store& store, int64_t study_id, int n) {
  Result<Trial> trial = store.AddTrial(study_id, ExamplePlan(n));
  if (!trial) return trial;
  if (Result<int> started = store.StartAttempt(trial->id, "log"); !started) return started.error();
  Result<void> finished =
      store.FinishTrial(trial->id, ExampleState(n), ExampleVerdict(n), ExampleMeasurements(n));
  if (!finished) return finished.error();
  return store.GetTrial(trial->id);
}

// ---- surroundings ------------------------------------------------------------------------------

Clock TickingClock() {
  auto seconds = std::make_shared<std::atomic<int>>(0);
  return [seconds] {
    constexpr std::chrono::sys_days kDay = std::chrono::year{2026} / 1 / 2;
    return kDay + std::chrono::hours(3) + std::chrono::minutes(4) +
           std::chrono::seconds(5 + (*seconds)++);
  };
}

TestFolder::TestFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "hproc_store_XXXXXX").string();
  HPROC_CHECK(::mkdtemp(name.data()) != nullptr, name);
  path_ = std::filesystem::canonical(name);
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  ::umount2(path_.c_str(), MNT_DETACH);  // where MountSmallDisk was here; else it fails and may
  std::filesystem::remove_all(path_, ignored);
}

bool MountSmallDisk(const std::filesystem::path& folder, int64_t bytes) {
  if (::unshare(CLONE_NEWNS) != 0) return false;
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  const std::string size = "size=" + std::to_string(bytes);
  return ::mount("tmpfs", folder.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, size.c_str()) == 0;
}

bool SetDiskReadOnly(const std::filesystem::path& folder, bool read_only) {
  unsigned long flags = MS_REMOUNT | MS_NOSUID | MS_NODEV;
  if (read_only) flags |= MS_RDONLY;
  return ::mount(nullptr, folder.c_str(), nullptr, flags, nullptr) == 0;
}

Helper::Helper(const std::vector<std::string>& arguments) {
  std::array<int, 2> in{};
  std::array<int, 2> out{};
  HPROC_CHECK(::pipe2(in.data(), O_CLOEXEC) == 0 && ::pipe2(out.data(), O_CLOEXEC) == 0, "pipe");
  UniqueFd child_in(in[0]);
  UniqueFd child_out(out[1]);
  input_.Reset(in[1]);
  output_.Reset(out[0]);
  posix_spawn_file_actions_t actions{};
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, child_in.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, child_out.get(), STDOUT_FILENO);
  std::vector<std::string> words = {HPROC_STORE_HELPER};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int code =
      ::posix_spawn(&pid_, HPROC_STORE_HELPER, &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  HPROC_CHECK(code == 0, HPROC_STORE_HELPER);
}

Helper::~Helper() {
  if (pid_ > 0) Kill();
}

std::optional<std::string> Helper::ReadLine() {
  while (true) {
    if (const size_t end = pending_.find('\n'); end != std::string::npos) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return line;
    }
    std::array<char, 4096> buffer{};
    const ssize_t count = ::read(output_.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return std::nullopt;  // what is pending is a line cut short: it did not return
    pending_.append(buffer.data(), static_cast<size_t>(count));
  }
}

void Helper::Kill() {
  ::kill(pid_, SIGKILL);
  Wait();
}

int Helper::Wait() {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace hproc::controller
