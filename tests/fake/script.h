// The script of fake_worker: what goes wrong where, and which model it plays meanwhile.
//
// JSON from the environment variable HPROC_FAKE (the JSON itself, or the path of a file), else from
// the file fake_worker.json in the job's model_dir, else an empty script: a well-behaved worker
// with a small model.
//
//   {"heartbeat_ms": 20,
//    "load": ["ignore_sigterm", {"do": "hang", "once": "done_once"}],
//    "generate": [{"do": "segv", "after": 3}],
//    "model": {…}}                              see model.h
//
// Steps, in the order in which a run meets them: start (before hello), init, measure or load,
// cache, warmup, generate, throughput, finish. At a step the actions are done in turn; after those
// that do not end the process the step goes on as if nothing were wrong. "after": N holds an action
// back until N samples of a generate are out. "once": FILE does it only as long as the file does
// not exist, and makes it: the next attempt goes well. "rank": N does it on that
// rank alone, "node": NAME on that node of Slurm's.
//
//   ends or blocks
//     oom {requested, available}  error {kind, message}  exit {code}  segv  abort  sigkill
//     hang (the heart beats)  freeze (SIGSTOP: nothing beats)
//   breaks the protocol
//     no_hello  seq_gap  wrong_version  wrong_result  stray_sample  duplicate_sample  skip_sample
//     after_exit  wrong_digest  babble {bytes}  torn (half a line)  long_line
//     (what no writer would write goes past it: with heartbeat_ms 0 no heartbeat gets in between)
//   bad manners
//     ignore_sigterm  deaf (to EOF)  ignore_cancel  flood {bytes} (to stderr)  slow {ms, ticks}
//     grandchild {escape} (holds the pipes open; with escape 1 it leaves the process group)
//   bad output
//     garbage (from then on)  sense (again)  nonfinite
//   for tests
//     print {text}  print_stdout {text}  describe (descriptors and signals, to stderr)
//     write_file {file, text}  wait_file {file}
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"

namespace hproc::fake {

struct Action {
  std::string what;
  int after = 0;
  int nth = 0;  // 0: in each
  std::string once;
  int rank = -1;  // -1: on each
  std::string node;  // empty: on each
  nlohmann::json parameters;  // the whole object; an empty one for an action given as a string

  int64_t Int(const char* name, int64_t otherwise) const {
    return parameters.value(name, otherwise);
  }
  std::string Text(const char* name) const { return parameters.value(name, std::string()); }
};

struct Script {
  int heartbeat_ms = 500;  // 0: none
  std::map<std::string, std::vector<Action>> steps;
  nlohmann::json model = nlohmann::json::object();
};

// An unknown step or action is an error: a test that asks for it would test nothing.
Result<Script> ParseScript(const std::string& text);

// As described above.
Result<Script> FindScript(const std::string& model_dir);

}  // namespace hproc::fake
