// A worker without a model: speaks the protocol through the worker's own ends of the pipes, plays
// the model that its script describes, and goes wrong where the script says so. tests/fake/script.h
// is its manual.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>

#include "base/file.h"
#include "tests/fake/model.h"
#include "tests/fake/script.h"
#include "worker/control_reader.h"
#include "worker/event_writer.h"

namespace hproc::fake {
namespace {

using std::chrono::milliseconds;
using worker::Phase;

[[noreturn]] void Die(const std::string& message, int code) {
  std::fprintf(stderr, "fake_worker: %s\n", message.c_str());
  ::_exit(code);
}

void WriteRaw(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0) return;  // the test's other end has had enough
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

// By signal even under a sanitizer, which would make an exit code of it.
[[noreturn]] void DieBySignal(int signal) {
  std::signal(signal, SIG_DFL);
  std::raise(signal);
  std::abort();
}

std::string StatusLine(const char* key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key, 0) == 0) return line;
  }
  return {};
}

// What the parent handed down: open descriptors, blocked and ignored signals, the process group.
void Describe() {
  std::string fds = "fds:";
  for (int fd = 0; fd < 1024; ++fd) {
    if (::fcntl(fd, F_GETFD) != -1) fds += " " + std::to_string(fd);
  }
  std::fprintf(stderr, "%s\n%s\n%s\ngroup leader: %d\n", fds.c_str(), StatusLine("SigBlk").c_str(),
               StatusLine("SigIgn").c_str(), ::getpgrp() == ::getpid());
}

class FakeWorker {
 public:
  explicit FakeWorker(int events_fd)
      : events_fd_(events_fd), control_(UniqueFd(STDIN_FILENO), [this] { OnControllerGone(); }) {}

  int Run() {
    Result<worker::Job> job = control_.ReadJob();
    if (!job.ok()) Die(job.error().message, worker::kExitUsage);
    const auto* measure = std::get_if<worker::MeasureJob>(&*job);
    const auto* trial = std::get_if<worker::TrialJob>(&*job);
    const worker::Deployment& deployment = measure ? measure->deployment : trial->deployment;

    Result<Script> script = FindScript(measure ? measure->model_dir : trial->model_dir);
    if (!script.ok()) Die(script.error().message, worker::kExitUsage);
    script_ = *std::move(script);
    rank_ = deployment.rank;
    Result<Model> model = Model::Make(script_.model, trial ? trial->plan_json : "", deployment);
    if (!model.ok()) Die(model.error().message, worker::kExitUsage);
    model_ = *std::move(model);

    Do("start");  // before the writer, which ignores SIGPIPE
    writer_.emplace(UniqueFd(events_fd_),
                    worker::EventWriter::Options{milliseconds(script_.heartbeat_ms),
                                                 [this] { OnControllerGone(); }});
    writer_->Write(worker::HelloEvent{::getpid(), "fake", "a fake device", deployment.rank,
                                      deployment.world_size});
    InPhase(Phase::kInit, [] {});
    if (measure) {
      Measure(*measure);
    } else {
      Load(*trial);
    }
    return Serve();
  }

 private:
  // ---- a well-behaved run
  // -------------------------------------------------------------------------------------------

  template <typename Work>
  void InPhase(Phase phase, Work work) {
    phase_ = phase;
    writer_->Write(worker::PhaseEvent{phase, true, 0});
    Do(std::string(PhaseName(phase)));
    work();
    writer_->Write(worker::PhaseEvent{phase, false, 0.001});
  }

  template <typename R>
  void Answer(R result) {
    writer_->Write(worker::ResultEvent{std::move(result)});
  }

  void Measure(const worker::MeasureJob& job) {
    InPhase(Phase::kMeasure, [&] {
      const Result<void> written =
          WriteFileAtomically(job.table_folder + "/fake.rates", model_.rate_table());
      if (!written.ok()) ReportError(worker::ErrorKind::kInternal, written.error().message);
    });
    Answer(
        worker::MeasureResult{job.table_folder + "/fake.rates", false,
                              script_.model.value("fingerprint", std::string("fake-fingerprint")),
                              1, script_.model.value("device_free_bytes", int64_t{0}),
                              model_.PredictedLines()});
  }

  void Load(const worker::TrialJob& job) {
    cap_bytes_ = job.memory_cap_bytes;
    InPhase(Phase::kLoad, [&] {
      writer_->Write(worker::ProgressEvent{Phase::kLoad, 0, model_.weight_bytes(), "bytes"});
      Allocate(model_.weight_bytes(), "weights");
      writer_->Write(worker::ProgressEvent{Phase::kLoad, model_.weight_bytes(),
                                           model_.weight_bytes(), "bytes"});
    });
    ReportMemory();
    worker::LoadResult load;
    load.plan_digest = lying_ ? "0000" : model_.plan_digest();
    load.weight_bytes = model_.weight_bytes();
    load.bits_per_weight = 4;
    load.seconds = 0.001;
    Answer(std::move(load));
    InPhase(Phase::kCache, [&] { Allocate(model_.cache_bytes(), "kv_cache"); });
    InPhase(Phase::kWarmup, [&] { Allocate(model_.activation_bytes(), "activations"); });
    ReportMemory();
    Answer(worker::ReadyResult{});
  }

  int Serve() {
    for (;;) {
      Result<worker::Command> command = control_.NextCommand();
      if (!command.ok()) ReportError(worker::ErrorKind::kInternal, command.error().message);
      if (const auto* generate = std::get_if<worker::GenerateCommand>(&*command)) {
        Generate(*generate);
      } else if (const auto* throughput = std::get_if<worker::ThroughputCommand>(&*command)) {
        phase_ = Phase::kThroughput;
        Do("throughput");
        Answer(worker::ThroughputResult{model_.Throughput(throughput->spec)});
      } else {
        Do("finish");
        Answer(worker::ExitResult{});
        if (speaks_after_exit_)
          WriteRaw(events_fd_, worker::EncodeEvent({999, 9, worker::HeartbeatEvent{}}));
        return worker::kExitOk;
      }
    }
  }

  void Generate(const worker::GenerateCommand& command) {
    phase_ = Phase::kGenerate;
    ++generates_;
    worker::GenerateResult result;
    int done = 0;
    for (const evals::GenerationRequest& request : command.requests) {
      last_request_ = request;
      Do("generate", done);
      if (control_.cancelled() && !ignores_cancel_) {
        result.cancelled = true;
        break;
      }
      evals::Completion completion = garbage_ ? model_.Garbage(request) : model_.Answer(request);
      if (nonfinite_) {
        completion.nonfinite_logits = 3;
        completion.finish = evals::FinishReason::kNonFinite;
      }
      result.prompt_tokens += completion.prompt_tokens;
      result.generated_tokens += static_cast<int64_t>(completion.token_ids.size());
      std::this_thread::sleep_for(milliseconds(script_.model.value("sample_ms", 0)));
      if (!skips_sample_) writer_->Write(worker::SampleEvent{std::move(completion)});
      skips_sample_ = false;
      ++writer_->progress();
      ++done;
    }
    Do("generate", done, /*at_the_end=*/true);
    Answer(result);
  }

  void Allocate(int64_t bytes, const std::string& what) {
    if (cap_bytes_ > 0 && live_bytes_ + bytes > cap_bytes_) {
      ReportOom(bytes, cap_bytes_ - live_bytes_, what);
    }
    live_bytes_ += bytes;
    ++writer_->progress();
  }

  void ReportMemory() {
    writer_->Write(
        worker::MemoryEvent{"cpu", live_bytes_, live_bytes_, cap_bytes_, model_.Ledger()});
  }

  [[noreturn]] void ReportOom(int64_t requested, int64_t available, const std::string& what) {
    writer_->Write(worker::OutOfMemoryEvent{phase_, "cpu", requested, available, what});
    ::_exit(worker::kExitReported);
  }

  [[noreturn]] void ReportError(worker::ErrorKind kind, const std::string& message) {
    writer_->Write(worker::ErrorEvent{kind, message});
    ::_exit(worker::kExitReported);
  }

  void OnControllerGone() {
    if (!deaf_) ::_exit(worker::kExitControllerGone);
  }

  // ---- the script
  // ---------------------------------------------------------------------------------------------------

  // The actions of a step that are due after so many samples; at_the_end: those beyond the last
  // sample as well.
  void Do(const std::string& step, int samples = 0, bool at_the_end = false) {
    for (const Action& action : script_.steps[step]) {
      const bool due =
          at_the_end ? action.after > 0 && action.after >= samples : action.after == samples;
      if (!due || (action.nth > 0 && action.nth != generates_)) continue;
      if (action.rank >= 0 && action.rank != rank_) continue;
      const char* node = std::getenv("SLURMD_NODENAME");
      if (!action.node.empty() && (node == nullptr || action.node != node)) continue;
      if (!action.once.empty()) {
        if (std::filesystem::exists(action.once)) continue;
        std::ofstream marker(action.once);
      }
      Do(action);
    }
  }

  void Do(const Action& action) {
    if (!DoEnding(action) && !DoViolation(action)) DoManners(action);
  }

  bool DoEnding(const Action& action) {
    const std::string& what = action.what;
    if (what == "oom") {
      ReportOom(action.Int("requested", 1000), action.Int("available", 400), "a tensor");
    } else if (what == "error") {
      const auto kind = worker::ErrorKindFromName(action.Text("kind"));
      ReportError(kind.value_or(worker::ErrorKind::kInternal), action.Text("message"));
    } else if (what == "exit") {
      ::_exit(static_cast<int>(action.Int("code", 0)));
    } else if (what == "segv") {
      DieBySignal(SIGSEGV);
    } else if (what == "abort") {
      DieBySignal(SIGABRT);
    } else if (what == "sigkill") {
      DieBySignal(SIGKILL);
    } else if (what == "hang") {
      for (;;) ::pause();
    } else if (what == "freeze") {
      std::raise(SIGSTOP);
    } else {
      return false;
    }
    return true;
  }

  bool DoViolation(const Action& action) {
    const std::string& what = action.what;
    if (what == "no_hello") {
      WriteRaw(events_fd_, worker::EncodeEvent({0, 0, worker::HeartbeatEvent{}}));
    } else if (what == "seq_gap") {
      WriteRaw(events_fd_, worker::EncodeEvent({1'000'000, 0, worker::HeartbeatEvent{}}));
    } else if (what == "wrong_version") {
      WriteRaw(events_fd_, "{\"v\":99,\"type\":\"heartbeat\",\"seq\":1,\"t\":0,\"counter\":0}\n");
    } else if (what == "wrong_result") {
      // Of the wrong kind at every step: nothing was measured, or it is measured already.
      Answer(worker::ThroughputResult{});
    } else if (what == "stray_sample") {
      evals::GenerationRequest nobodys;
      nobodys.id = 424'242;
      writer_->Write(worker::SampleEvent{model_.Answer(nobodys)});
    } else if (what == "duplicate_sample") {
      writer_->Write(worker::SampleEvent{model_.Answer(last_request_)});
      writer_->Write(worker::SampleEvent{model_.Answer(last_request_)});
    } else if (what == "skip_sample") {
      skips_sample_ = true;
    } else if (what == "after_exit") {
      speaks_after_exit_ = true;
    } else if (what == "babble") {
      std::mt19937 random(1);
      std::string bytes(static_cast<size_t>(action.Int("bytes", 300)), '\0');
      for (char& byte : bytes) byte = static_cast<char>(random());
      WriteRaw(events_fd_, bytes + "\n");
    } else if (what == "torn") {
      WriteRaw(events_fd_, R"({"v":1,"type":"heartb)");
    } else if (what == "long_line") {
      WriteRaw(events_fd_, std::string(worker::kMaxLineBytes + 1, ' '));
    } else if (what == "wrong_digest") {
      lying_ = true;
    } else {
      return false;
    }
    return true;
  }

  void DoManners(const Action& action) {
    const std::string& what = action.what;
    if (what == "ignore_sigterm") {
      std::signal(SIGTERM, SIG_IGN);
    } else if (what == "deaf") {
      deaf_ = true;
    } else if (what == "ignore_cancel") {
      ignores_cancel_ = true;
    } else if (what == "flood") {
      const std::string line(99, 'x');
      for (int64_t left = action.Int("bytes", 0); left > 0; left -= 100) {
        std::fprintf(stderr, "%s\n", line.c_str());
      }
    } else if (what == "slow") {
      const int64_t ticks = action.Int("ticks", 10);
      for (int64_t tick = 0; tick < ticks; ++tick) {
        std::this_thread::sleep_for(milliseconds(action.Int("ms", 0)) / ticks);
        ++writer_->progress();
      }
    } else if (what == "grandchild") {
      StartGrandchild(action.Int("escape", 0) != 0);
    } else if (what == "garbage" || what == "sense") {
      garbage_ = what == "garbage";
    } else if (what == "nonfinite") {
      nonfinite_ = true;
    } else if (what == "print") {
      std::fprintf(stderr, "%s\n", action.Text("text").c_str());
    } else if (what == "print_stdout") {
      std::printf("%s\n", action.Text("text").c_str());
      std::fflush(stdout);
    } else if (what == "describe") {
      Describe();
    } else if (what == "write_file") {
      const Result<void> written = WriteFileAtomically(action.Text("file"), action.Text("text"));
      if (!written.ok()) Die(written.error().message, 1);
    } else if (what == "wait_file") {
      while (!std::filesystem::exists(action.Text("file")))
        std::this_thread::sleep_for(milliseconds(1));
    }
  }

  // Keeps all pipes open and does not react to SIGTERM. Its number goes to the log.
  static void StartGrandchild(bool escape) {
    const pid_t pid = ::fork();
    if (pid < 0) Die("cannot fork", 1);
    if (pid > 0) {
      std::fprintf(stderr, "grandchild %d\n", pid);
      return;
    }
    if (escape) ::setsid();
    std::signal(SIGTERM, SIG_IGN);
    for (;;) ::pause();
  }

  const int events_fd_;
  int rank_ = 0;
  Script script_;
  Model model_;
  std::optional<worker::EventWriter> writer_;
  Phase phase_ = Phase::kInit;
  evals::GenerationRequest last_request_;
  int generates_ = 0;
  int64_t live_bytes_ = 0;
  int64_t cap_bytes_ = 0;
  bool lying_ = false;
  bool garbage_ = false;
  bool nonfinite_ = false;
  bool skips_sample_ = false;
  bool ignores_cancel_ = false;
  bool speaks_after_exit_ = false;
  std::atomic<bool> deaf_{false};
  worker::ControlReader control_;  // last: its thread uses deaf_
};

}  // namespace
}  // namespace hproc::fake

#if defined(__SANITIZE_THREAD__)
// By default the sanitizer lets a process that exits live on for a second.
extern "C" const char* __tsan_default_options() { return "atexit_sleep_ms=0"; }
#endif

int main(int argc, char** argv) {
  int events_fd = -1;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--events-fd") == 0) events_fd = std::atoi(argv[i + 1]);
  }
  if (events_fd < 0) hproc::fake::Die("no --events-fd", hproc::worker::kExitUsage);
  return hproc::fake::FakeWorker(events_fd).Run();
}
