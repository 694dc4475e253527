// What the relay and the programs of the other ranks share in passing things on between their supervisor and their agent.
#pragma once

#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>
#include <string_view>

#include "controller/launch_note.h"
#include "controller/slurm/frame_channel.h"
#include "controller/spawn.h"
#include "worker/protocol.h"

namespace hproc::controller {

// Blocks until all is written. A reader that is gone is no error: the supervisor's end shows on its other pipes, too.
inline void WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno != EINTR) return;
    if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
  }
}

// What the supervisor writes on standard input, which does not block, to the worker; dropped where the agent is gone already.
// False once nothing more will come.
inline bool PassControl(std::optional<FrameChannel>& agent) {
  std::array<char, kMaxFrameBytes> chunk{};
  const ssize_t n = ::read(STDIN_FILENO, chunk.data(), chunk.size());
  if (n > 0 && agent) agent->Send(kControlFrame, {chunk.data(), static_cast<size_t>(n)});
  return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

// Whether a worker left in its own way. Taking the controller for gone is what it makes of a job that ends, and a signal may be
// the end that the job's was put to: then what became of the job is asked first.
inline bool LeftByItself(const std::optional<LaunchEnd>& exit) {
  return exit && exit->exit_code && *exit->exit_code != worker::kExitControllerGone;
}

// What the agent has said: events go on to the supervisor, `on_hello(note)` is called for the worker's hello. The worker's end,
// if that was said.
template <typename OnHello>
std::optional<LaunchEnd> PassEvents(FrameChannel& agent, const OnHello& on_hello) {
  std::optional<LaunchEnd> end;
  agent.Read();
  while (const std::optional<Frame> frame = agent.Next()) {
    if (frame->type == kEventsFrame) {
      WriteAll(kEventsFd, frame->payload);
      continue;
    }
    const std::optional<LaunchNote> note = DecodeNote(frame->payload);
    if (note && frame->type == kHelloFrame) on_hello(*note);
    if (note && frame->type == kExitFrame) end = note->end;
  }
  return end;
}

}  // namespace hproc::controller
