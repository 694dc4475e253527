// EventWriter: the worker's end of the events pipe.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "base/unique_fd.h"
#include "worker/protocol.h"

namespace hproc::worker {

// Stamps events and writes them as whole lines, in the order of their "seq".
//
//  - Owns the descriptor and one thread, whose job is the heartbeat: it beats from the first event
//    (hello) to the last (oom, error or result:exit), whatever the working thread does. After the
//    last event nothing more is written.
//  - Write returns when the line is in the pipe: an event that went before a crash is not lost with
//    the process. It blocks while the pipe is full. No lock is held meanwhile: the first thread to
//    come writes for those behind it.
//  - A controller that is gone (EPIPE, or any other error of the pipe) ends the process: there is
//    nobody to work for.
//
// Thread-safe. Ignores SIGPIPE for the whole process, which is the worker's to decide: EPIPE says
// the same to the one thread that needs to know.
class EventWriter {
 public:
  struct Options {
    std::chrono::milliseconds heartbeat = kHeartbeatPeriod;  // 0: none
    // Called once, from the thread that found out. Empty: _exit(kExitControllerGone). If it
    // returns, writes fail.
    std::function<void()> on_controller_gone;
  };

  explicit EventWriter(UniqueFd events);
  EventWriter(UniqueFd events, Options options);
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  // False when the line was not written: after the last event, or when the controller is gone.
  bool Write(EventBody body);

  // What the heartbeat carries. The working thread adds to it whenever it gets on (a tensor, a
  // layer, a token), every few seconds at least: the controller ends a worker whose counter stands
  // still for minutes. Relaxed order will do. Lives as long as the writer.
  std::atomic<int64_t>& progress() { return progress_; }

 private:
  void Beat(std::stop_token stop);
  bool WriteAll(std::string_view lines);

  const UniqueFd events_;
  const Options options_;
  const std::chrono::steady_clock::time_point start_;
  std::atomic<int64_t> progress_{0};

  std::mutex mutex_;  // guards all below, never held across a write
  std::condition_variable turn_;
  std::string pending_;  // lines stamped, not yet taken by a writer
  int64_t next_seq_ = 0;
  int64_t written_through_ = 0;  // lines before this seq are in the pipe
  bool writing_ = false;         // one thread is in WriteAll
  bool closed_ = false;          // the last event was stamped, or the pipe broke
  bool broken_ = false;

  std::condition_variable_any beat_;
  std::jthread heartbeat_;  // last: stops before the rest goes
};

}  // namespace hproc::worker
