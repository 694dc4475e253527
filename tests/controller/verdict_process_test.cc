// Every row of the table in verdict.h that a process can be made to show, from a real one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/file.h"
#include "controller/verdict.h"
#include "controller/worker_client.h"
#include "tests/controller/fake.h"

namespace hproc::controller {
namespace {

using testing::HasSubstr;
using worker::Phase;

// A run through every call; the verdict where it ended.
RunVerdict Run(WorkerOptions options) {
  auto client = WorkerClient::Start(std::move(options), MakeTrial(), nullptr);
  EXPECT_TRUE(client.ok()) << client.error().message;
  if (!(*client)->AwaitLoad("").ok()) return *(*client)->verdict();
  std::vector<evals::GenerationRequest> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = static_cast<int64_t>(i);
    requests[i].prompt = "Question: " + std::to_string(i) + "\nAnswer:";
  }
  const auto answered =
      (*client)->Generate(requests, [](const evals::Completion&) { return true; });
  if (!answered.ok()) return *(*client)->verdict();
  if (!(*client)->Throughput({}).ok()) return *(*client)->verdict();
  return (*client)->Finish();
}

struct Row {
  const char* script;
  Reason reason;
  const char* phase;
  const char* message;
  std::function<void(WorkerOptions&)> change = [](WorkerOptions&) {};
};

void Expect(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    SCOPED_TRACE(row.script);
    WorkerOptions options = FakeWorker(row.script);
    row.change(options);
    const RunVerdict run = Run(std::move(options));
    EXPECT_EQ(run.verdict.reason, row.reason) << run.verdict.message;
    EXPECT_EQ(run.verdict.phase, row.phase);
    EXPECT_THAT(run.verdict.message, HasSubstr(row.message));
  }
}

TEST(VerdictOfAProcess, NoneWhereEverythingGoesWell) {
  Expect({
      {"{}", Reason::kNone, "", ""},
      {R"({"load": [{"do": "slow", "ms": 50}], "generate": ["garbage", "nonfinite"]})",
       Reason::kNone, "", ""},
  });
}

TEST(VerdictOfAProcess, OutOfMemoryInEveryPhase) {
  Expect({
      {R"({"init": ["oom"]})", Reason::kOutOfMemory, "init",
       "a tensor: 1000 bytes asked for, 400 available"},
      {R"({"load": ["oom"]})", Reason::kOutOfMemory, "load", ""},
      {R"({"cache": ["oom"]})", Reason::kOutOfMemory, "cache", ""},
      {R"({"warmup": ["oom"]})", Reason::kOutOfMemory, "warmup", ""},
      {R"({"generate": [{"do": "oom", "after": 2}]})", Reason::kOutOfMemory, "generate", ""},
      {R"({"throughput": ["oom"]})", Reason::kOutOfMemory, "throughput", ""},
  });
}

TEST(VerdictOfAProcess, ByTheKindOfTheErrorThatItReports) {
  Expect({
      {R"({"load": [{"do": "error", "kind": "bad_checkpoint", "message": "no config.json"}]})",
       Reason::kLoaderFault, "load", "no config.json"},
      {R"({"load": [{"do": "error", "kind": "loader_fault", "message": "missing tensor"}]})",
       Reason::kLoaderFault, "load", "missing tensor"},
      {R"({"load": [{"do": "error", "kind": "host_out_of_memory", "message": "bad_alloc"}]})",
       Reason::kHostOutOfMemory, "load", "bad_alloc"},
      {R"({"generate": [{"do": "error", "kind": "device_lost", "message": "Xid 79"}]})",
       Reason::kDeviceLost, "generate", "Xid 79"},
      {R"({"warmup": [{"do": "error", "kind": "internal", "message": "illegal address"}]})",
       Reason::kCrash, "warmup", "illegal address"},
  });
}

TEST(VerdictOfAProcess, CrashBySignalOrExitCode) {
  Expect({
      {R"({"start": ["segv"]})", Reason::kCrash, "init", "SIGSEGV"},
      {R"({"load": [{"do": "print", "text": "last words"}, "segv"]})", Reason::kCrash, "load",
       "ended by SIGSEGV; last line of its log: last words"},
      {R"({"generate": [{"do": "abort", "after": 1}]})", Reason::kCrash, "generate", "SIGABRT"},
      {R"({"throughput": [{"do": "exit", "code": 1}]})", Reason::kCrash, "throughput",
       "exit code 1"},
      {R"({"warmup": [{"do": "exit", "code": 134}]})", Reason::kCrash, "warmup",
       "exit code 134 (SIGABRT)"},
      {R"({"heartbeat_ms": 0, "load": ["torn", "segv"]})", Reason::kCrash, "load",
       "SIGSEGV"},  // a torn last line is no offence
  });
}

TEST(VerdictOfAProcess, HangWhereNothingIsHeardOrNothingMoves) {
  const auto short_silence = [](WorkerOptions& options) {
    options.deadlines.silence = milliseconds(400);
  };
  const auto short_silence_and_grace = [](WorkerOptions& options) {
    options.deadlines.silence = milliseconds(400);
    options.polite = options.terminate = milliseconds(30);
  };
  const auto short_freeze = [](WorkerOptions& options) {
    options.deadlines.frozen = milliseconds(400);
  };
  Expect({
      {R"({"heartbeat_ms": 0, "load": ["hang"]})", Reason::kHang, "load",
       "no event for 0.4 s in load; exit code 5", short_silence},
      {R"({"load": ["freeze"]})", Reason::kHang, "load",
       "no event for 0.4 s in load; ended by SIGKILL", short_silence_and_grace},
      {R"({"heartbeat_ms": 10, "load": ["hang"]})", Reason::kHang, "load",
       "the heart beats, but no progress for", short_freeze},
      {R"({"heartbeat_ms": 10, "generate": [{"do": "hang", "after": 2}]})", Reason::kHang,
       "generate", "the heart beats, but no progress for", short_freeze},
  });
}

TEST(VerdictOfAProcess, TimeoutWhereAPhaseTakesTooLong) {
  const std::string slow = R"([{"do": "slow", "ms": 60000, "ticks": 60000}])";
  const std::string load = R"({"heartbeat_ms": 10, "load": )" + slow + "}";
  Expect({
      {load.c_str(), Reason::kTimeout, "load", "load: not done within 0.2 s",
       [](WorkerOptions& options) { options.deadlines.of(Phase::kLoad) = milliseconds(200); }},
      {R"({"model": {"sample_ms": 60000}})", Reason::kTimeout, "generate",
       "no completion within 0.2 s",
       [](WorkerOptions& options) { options.deadlines.of(Phase::kGenerate) = milliseconds(200); }},
      {R"({"start": ["hang"]})", Reason::kTimeout, "init", "no hello within 0.2 s",
       [](WorkerOptions& options) { options.deadlines.hello = milliseconds(200); }},
      {R"({"finish": ["hang"]})", Reason::kTimeout, "throughput", "no result:exit within 0.2 s",
       [](WorkerOptions& options) { options.deadlines.ending = milliseconds(200); }},
  });
}

TEST(VerdictOfAProcess, KilledOrHostOutOfMemoryByTheCounterOfTheCgroup) {
  const TestFolder folder;
  const std::string counter = folder / "memory.events";
  const auto counted = [&](WorkerOptions& options) {
    ASSERT_TRUE(WriteFileAtomically(counter, "oom 0\noom_kill 3\n").ok());
    options.oom_kills = OomKillCounter(counter);
  };
  const auto uncounted = [](WorkerOptions& options) { options.oom_kills = OomKillCounter({}); };
  const std::string rises = R"({"load": [{"do": "write_file", "file": ")" + counter +
                            R"(", "text": "oom_kill 4\n"}, "sigkill"]})";
  Expect({
      {rises.c_str(), Reason::kHostOutOfMemory, "load", "OOM killer struck in this cgroup",
       counted},
      {R"({"load": ["sigkill"]})", Reason::kKilled, "load",
       "SIGKILL from elsewhere; not the kernel's OOM killer", counted},
      {R"({"load": ["sigkill"]})", Reason::kKilled, "load", "SIGKILL, cause unknown", uncounted},
      {R"({"load": [{"do": "exit", "code": 137}]})", Reason::kKilled, "load",
       "SIGKILL, cause unknown", uncounted},
  });
}

TEST(VerdictOfAProcess, ProtocolErrorWhereItLeavesWithoutAWord) {
  Expect({
      {R"({"load": [{"do": "exit", "code": 0}]})", Reason::kProtocolError, "load",
       "exit code 0 without result:exit"},
      {R"({"finish": [{"do": "exit", "code": 0}]})", Reason::kProtocolError, "throughput",
       "exit code 0 without"},
      {R"({"start": [{"do": "exit", "code": 2}]})", Reason::kProtocolError, "init", "exit code 2"},
      {R"({"load": [{"do": "exit", "code": 4}]})", Reason::kProtocolError, "load",
       "exit code 4 without"},
      {R"({"load": [{"do": "exit", "code": 5}]})", Reason::kProtocolError, "load", "exit code 5"},
      {R"({"heartbeat_ms": 0, "load": ["torn", {"do": "exit", "code": 0}]})",
       Reason::kProtocolError, "load", "exit code 0 without"},
  });
}

TEST(VerdictOfAProcess, ProtocolErrorWhereWhatItSaysBreaksTheRules) {
  Expect({
      {R"({"start": ["no_hello"]})", Reason::kProtocolError, "init",
       "the first event is not hello"},
      {R"({"load": ["babble", "hang"]})", Reason::kProtocolError, "load", "not JSON"},
      {R"({"load": ["babble", "segv"]})", Reason::kProtocolError, "load", "not JSON"},
      {R"({"heartbeat_ms": 0, "load": ["long_line", "hang"]})", Reason::kProtocolError, "load",
       "a line of more than 67108864 bytes"},
      {R"({"load": ["torn"]})", Reason::kProtocolError, "load",
       "not JSON"},  // half a line, then another
      {R"({"load": ["seq_gap", "hang"]})", Reason::kProtocolError, "load", "seq is 1000000, not "},
      {R"({"load": ["wrong_version", "hang"]})", Reason::kProtocolError, "load",
       "protocol version 99, not 1"},
      {R"({"load": ["stray_sample"]})", Reason::kProtocolError, "load",
       "sample 424242 without a generate"},
      {R"({"generate": ["stray_sample"]})", Reason::kProtocolError, "generate",
       "sample 424242, which was not asked for"},
      {R"({"generate": [{"do": "duplicate_sample", "after": 1}]})", Reason::kProtocolError,
       "generate", "sample 1 twice"},
      {R"({"generate": ["skip_sample"]})", Reason::kProtocolError, "generate",
       "1 requests have no sample"},
      {R"({"generate": ["wrong_result"]})", Reason::kProtocolError, "generate",
       "result:throughput without a throughput command"},
      {R"({"finish": ["after_exit"]})", Reason::kProtocolError, "throughput",
       "an event after the last one"},
  });
}

}  // namespace
}  // namespace hproc::controller
