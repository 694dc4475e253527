// How the run of one worker process ended: everything the supervisor knows, before anybody judges
// it (verdict.h). Plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "worker/protocol.h"

namespace hproc::controller {

// Why the supervisor ended the process. The first cause stands, whatever happens while the process
// dies.
enum class KillCause {
  kNone,           // it did not: the process ended by itself
  kProtocolError,  // what came through the events pipe breaks the protocol
  kSilent,         // no event at all, not even a heartbeat
  kFrozen,         // the heart beats, nothing else moves
  kDeadline,       // a phase took longer than it may
  kStopped,        // the controller wants it gone: interrupted, or its owner was destroyed
};

// Whether the kernel's OOM killer struck in the controller's cgroup (the worker's too) while the
// worker lived.
enum class OomKills {
  kUnknown,  // no counter can be read here
  kNone,
  kSome,
};

// What the worker said of itself, as far as it kept to the protocol.
struct RunRecord {
  std::optional<worker::HelloEvent> hello;
  worker::Phase phase = worker::Phase::kInit;  // the last one it was in
  std::optional<worker::OutOfMemoryEvent> oom;
  std::optional<worker::ErrorEvent> error;
  bool exit_announced = false;  // result:exit was received
};

// What the launcher of a worker that ran elsewhere says of its end (controller/launcher.h).
struct LaunchEnd {
  // The scheduler's word for the job, "CANCELLED", "NODE_FAIL", "TIMEOUT", …, or one of ours; empty: nothing to say.
  std::string state;
  std::string job;
  std::string node;     // where it ran; empty: nowhere
  std::string message;  // one line
  // How the worker itself left, as far as it was seen.
  std::optional<int> exit_code;
  int signal = 0;
  OomKills oom_kills = OomKills::kUnknown;  // on that node
};

// Words of ours in LaunchEnd::state.
inline constexpr const char* kJobNotLaunched = "NOT_LAUNCHED";  // the scheduler would not have it, or does not answer
inline constexpr const char* kJobNotHeard = "NOT_HEARD";        // it runs, but cannot reach the controller
inline constexpr const char* kJobLost = "LOST";                 // it was heard, then no more, and nobody knows why

struct WorkerEnd {
  // Exactly one of the first four says how the process left.
  std::optional<int> exit_code;
  int signal = 0;  // that ended it; 0: none
  bool unkillable =
      false;  // it outlived SIGKILL: stuck in the kernel, most likely in a driver. Not reaped
  bool status_lost = false;  // somebody else reaped it

  KillCause kill_cause = KillCause::kNone;
  std::string
      kill_detail;  // one line: the deadline that passed, the rule of the protocol that was broken
  bool sigkill_sent = false;  // by us, while it lived

  OomKills oom_kills = OomKills::kUnknown;
  std::optional<LaunchEnd> launch;  // of a worker that was launched elsewhere
  RunRecord record;
  int64_t torn_bytes = 0;  // of a last line without its end
  int64_t peak_rss_bytes = 0;
  double wall_seconds = 0;
  std::string log_tail;   // of stdout and stderr; raw bytes
  std::string log_error;  // why the log file is incomplete; empty: it is not, or there is none
};

}  // namespace hproc::controller
