// RunControl: begins, interrupts and ends the searches of one study file: one at a time, each a supervised child
// (controller/tune_process.h) that takes the file's lock. It also sees the ones begun elsewhere, and can interrupt those.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "controller/file_lock.h"
#include "controller/tune_process.h"

namespace hproc::web {

// What became of a request; `status` as in HTTP: 202 begun, 409 another one runs or none does, 422 it ended at once.
struct RunAnswer {
  int status = 202;
  std::string message;  // one line where it was refused
};

// Thread-safe.
class RunControl {
 public:
  // program: hproc. The run's output goes to log_folder/run.log.
  RunControl(std::filesystem::path program, std::filesystem::path db, std::filesystem::path log_folder);
  // Interrupts what it began and waits for its end (TuneProcess).
  ~RunControl() = default;

  // `hproc COMMAND ARGUMENTS --db=FILE`. A child that ends within kFirstLook with an error is 422 with its message.
  RunAnswer Begin(const std::string& command, std::vector<std::string> arguments);
  static constexpr std::chrono::milliseconds kFirstLook{800};

  RunAnswer Pause();  // the interrupt of the command line: the study can be resumed
  RunAnswer Stop();   // the same, and does not wait for a polite end
  // From now on Begin is refused; what runs is interrupted.
  void Close();
  // Until what runs has ended, politely or not (TuneProcess); after Close.
  void AwaitEnd();

  struct State {
    std::optional<controller::LockHolder> holder;  // whoever writes the study file now
    bool ours = false;                             // begun here
    std::string command;                           // the last one begun here; empty: none
    std::optional<int> exit_code;                  // of that, once it has ended
    std::string message;                           // the last line it printed
  };
  State Look() const;

 private:
  bool RunsLocked() const;

  const std::filesystem::path program_;
  const std::filesystem::path db_;
  const std::filesystem::path log_folder_;
  mutable std::mutex mutex_;
  std::string command_;
  std::shared_ptr<controller::TuneProcess> child_;  // kept after its end, for its last words
  bool closed_ = false;
};

}  // namespace hproc::web
