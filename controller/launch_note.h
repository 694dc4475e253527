// What a launcher tells of the worker it was asked to run elsewhere, as JSON lines on a pipe of their own beside the
// worker's events (controller/launcher.h): where the job is in the queue, that the worker can be heard, how it all ended.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "controller/worker_end.h"

namespace hproc::controller {

struct LaunchNote {
  enum class Kind {
    kPending,    // in the queue; `reason` is the scheduler's
    kStarted,    // on `node`; the worker is not heard yet
    kConnected,  // what is written goes to the worker from now on, and its time counts
    kRemark,     // `reason` is a line for the operator
    kEnded,      // the last
  };
  Kind kind = Kind::kPending;
  std::string job;     // the scheduler's number; empty: not known
  std::string node;
  std::string reason;
  LaunchEnd end;       // where kind is kEnded
};

std::string EncodeNote(const LaunchNote& note);  // with its '\n'
// None for a line that is no note.
std::optional<LaunchNote> DecodeNote(std::string_view line);

}  // namespace hproc::controller
