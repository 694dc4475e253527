// RunControl: begins, interrupts and ends the searches of one study file: one at a time, each a supervised child
// (controller/tune_process.h) that takes the file's lock. It also sees the ones begun elsewhere, and can interrupt those.
//
// Searches may wait in a queue: the first begins when nobody holds the study file. One that was paused or stopped from here,
// wherever it was begun, or begun here and interrupted, holds the queue, since whoever did it wants the machine: until a search
// is begun or resumed here, or the queue is released. The queue is in memory alone and ends with the server.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "controller/file_lock.h"
#include "controller/tune_process.h"

namespace hproc::web {

// What became of a request; `status` as in HTTP: 202 begun or waiting, 409 another one runs or none does, 422 it ended at once.
struct RunAnswer {
  int status = 202;
  std::string message;  // one line where it was refused
};

// Thread-safe.
class RunControl {
 public:
  // program: hproc. The run's output goes to log_folder/run.log. `on_queue_changed` is called, without a lock and on a thread of
  // this object's own, after a search of the queue has begun by itself or failed, or one
  // that ended holds the queue.
  RunControl(std::filesystem::path program, std::filesystem::path db, std::filesystem::path log_folder,
             std::function<void()> on_queue_changed);
  // Interrupts what it began and waits for its end (TuneProcess); what waits is forgotten.
  ~RunControl() = default;

  // `hproc COMMAND ARGUMENTS --db=FILE`. A child that ends within kFirstLook with an error is 422 with its message.
  RunAnswer Begin(const std::string& command, std::vector<std::string> arguments);
  static constexpr std::chrono::milliseconds kFirstLook{800};

  // A `tune` that begins when its turn comes. `what`: how it is called meanwhile, one line. 409: kMaxWaiting wait already.
  RunAnswer Enqueue(std::string what, std::vector<std::string> arguments);
  RunAnswer Withdraw(int64_t id);  // 404: it does not wait
  RunAnswer Release();             // 409: the queue is not held
  static constexpr size_t kMaxWaiting = 16;
  static constexpr size_t kMaxFailed = 8;
  static constexpr std::chrono::milliseconds kQueuePeriod{200};

  RunAnswer Pause();  // the interrupt of the command line: the study can be resumed
  RunAnswer Stop();   // the same, and does not wait for a polite end
  // From now on Begin and Enqueue are refused; what waits is forgotten, what runs is interrupted.
  void Close();
  // Until what runs has ended, politely or not (TuneProcess); after Close.
  void AwaitEnd();

  struct State {
    std::optional<controller::LockHolder> holder;  // whoever writes the study file now
    bool ours = false;                             // begun here
    std::string command;                           // the last one begun here; empty: none
    std::optional<int> exit_code;                  // of that, once it has ended
    std::string message;                           // the last line it printed
    struct Waiting {
      int64_t id = 0;
      std::string what;
    };
    std::vector<Waiting> waiting;  // in their order
    bool held = false;
    std::vector<std::string> failed;  // of the queue, the last kMaxFailed: what it was called, and what it said last
  };
  State Look() const;

 private:
  struct Queued {
    State::Waiting waiting;
    std::vector<std::string> arguments;
  };

  bool RunsLocked() const;
  bool HeldLocked() const;
  void NoteEndLocked();
  void KeepFailureLocked(const std::string& what, const std::string& message);
  // Starts the child, or says why not.
  RunAnswer StartLocked(const std::string& command, std::vector<std::string> arguments);
  void LookAgainLocked();  // now, not at the end of kQueuePeriod
  void ServeQueue(const std::stop_token& ending);

  const std::filesystem::path program_;
  const std::filesystem::path db_;
  const std::filesystem::path log_folder_;
  const std::function<void()> on_queue_changed_;
  mutable std::mutex mutex_;
  std::string command_;
  std::shared_ptr<controller::TuneProcess> child_;  // kept after its end, for its last words
  bool closed_ = false;
  std::deque<Queued> queue_;
  int64_t last_id_ = 0;
  std::string of_queue_;  // what the child is called, where it came from the queue and is not yet known to have ended
  std::deque<std::string> failed_;
  bool end_noted_ = true;  // what the child's end says of the queue is noted, or there is no child
  bool stopped_ = false;   // the child, by Stop
  bool untold_ = false;    // on_queue_changed_ is yet to be called
  bool held_ = false;      // a search was interrupted, and nobody has begun another or released the queue since
  bool look_ = false;
  std::condition_variable_any changed_;
  std::jthread queue_thread_;  // last: it uses the rest
};

}  // namespace hproc::web
