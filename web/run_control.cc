#include "web/run_control.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/printable.h"
#include "controller/cli/exit_codes.h"
#include "controller/tune_journal.h"
#include "web/study_reader.h"

namespace hproc::web {
namespace {

constexpr size_t kMessageBytes = 2048;

// The last line that says something, without the program's name before it.
std::string LastLine(const std::string& printed) {
  std::string last;
  for (size_t from = 0; from < printed.size();) {
    const size_t end = std::min(printed.find('\n', from), printed.size());
    const std::string line = printed.substr(from, end - from);
    if (line.find_first_not_of(" \r\t") != std::string::npos) last = line;
    from = end + 1;
  }
  if (last.starts_with("hproc: ")) last.erase(0, 7);
  return PrintableLine(last);
}

// Whether a journal other than the one of that stamp says that its search has begun.
bool HasBegun(const std::filesystem::path& db, const std::string& journal_before) {
  const std::filesystem::path file = controller::EventsFileOf(db);
  if (StampOf(file).text == journal_before) return false;
  const auto begins = [](const std::string& line) { return line.starts_with("{\"type\":\"study_start\""); };
  return std::ranges::any_of(controller::TuneJournalReader(file).Read().lines, begins);
}

}  // namespace

RunControl::RunControl(std::filesystem::path program, std::filesystem::path db, std::filesystem::path log_folder,
                       std::function<void()> on_queue_changed)
    : program_(std::move(program)),
      db_(std::move(db)),
      log_folder_(std::move(log_folder)),
      on_queue_changed_(std::move(on_queue_changed)),
      queue_thread_([this](const std::stop_token& ending) { ServeQueue(ending); }) {}

bool RunControl::RunsLocked() const { return child_ && !child_->exit_code(); }

bool RunControl::HeldLocked() const { return held_ && !queue_.empty() && !RunsLocked(); }

// What the end of the child says of the queue; once. One that fails leaves the next its turn; why it did is kept.
void RunControl::NoteEndLocked() {
  if (end_noted_ || RunsLocked()) return;
  end_noted_ = true;
  const int exit_code = *child_->exit_code();
  if (exit_code == controller::kExitInterrupted || (stopped_ && exit_code == 128 + SIGKILL)) {
    held_ = true;
  } else if (!of_queue_.empty() && exit_code != 0 && exit_code != controller::kExitNoFeasiblePoint) {
    KeepFailureLocked(of_queue_, LastLine(child_->LogTail(kMessageBytes)));
  }
  if (HeldLocked()) untold_ = true;
  of_queue_.clear();
}

void RunControl::KeepFailureLocked(const std::string& what, const std::string& message) {
  failed_.push_back(what + ": " + message);
  if (failed_.size() > kMaxFailed) failed_.pop_front();
  untold_ = true;
}

RunAnswer RunControl::StartLocked(const std::string& command, std::vector<std::string> arguments) {
  NoteEndLocked();
  if (closed_) return {503, "the server is about to end"};
  if (RunsLocked()) return {409, "a search is running already: pause it first"};
  if (const auto holder = controller::HolderOf(db_)) return {409, "the study file is in use by " + holder->text};
  std::error_code code;
  std::filesystem::create_directories(log_folder_, code);
  std::vector<std::string> argv = {program_.string(), command};
  argv.insert(argv.end(), std::make_move_iterator(arguments.begin()), std::make_move_iterator(arguments.end()));
  argv.push_back("--db=" + db_.string());
  Result<std::unique_ptr<controller::TuneProcess>> started =
      controller::TuneProcess::Start(std::move(argv), log_folder_ / "run.log");
  if (!started.ok()) return {500, started.error().message};
  command_ = command;
  child_ = *std::move(started);
  end_noted_ = false;
  stopped_ = false;
  held_ = false;
  return {202, {}};
}

void RunControl::LookAgainLocked() {
  look_ = true;
  changed_.notify_all();
}

void RunControl::ServeQueue(const std::stop_token& ending) {
  std::unique_lock lock(mutex_);
  while (!ending.stop_requested()) {
    NoteEndLocked();
    if (!queue_.empty() && !closed_ && !HeldLocked() && !RunsLocked() && !controller::HolderOf(db_)) {
      const RunAnswer started = StartLocked("tune", queue_.front().arguments);
      if (started.status != 409) {  // that is tried again: whoever holds the study file came between
        if (started.status == 202) {
          of_queue_ = queue_.front().waiting.what;
        } else {
          KeepFailureLocked(queue_.front().waiting.what, started.message);
        }
        queue_.pop_front();
        untold_ = true;
      }
    }
    if (std::exchange(untold_, false)) {
      lock.unlock();
      on_queue_changed_();
      lock.lock();
    }
    changed_.wait_for(lock, ending, kQueuePeriod, [this] { return std::exchange(look_, false); });
  }
}

RunAnswer RunControl::Enqueue(std::string what, std::vector<std::string> arguments) {
  const std::scoped_lock lock(mutex_);
  NoteEndLocked();
  if (closed_) return {503, "the server is about to end"};
  if (queue_.size() >= kMaxWaiting) return {409, "no more searches can wait"};
  if (queue_.empty() && !RunsLocked()) held_ = false;  // whoever asks now does not mean: after what was paused before
  queue_.push_back({.waiting = {.id = ++last_id_, .what = PrintableLine(what)}, .arguments = std::move(arguments)});
  LookAgainLocked();
  return {202, {}};
}

RunAnswer RunControl::Withdraw(int64_t id) {
  const std::scoped_lock lock(mutex_);
  const auto found = std::ranges::find_if(queue_, [id](const Queued& queued) { return queued.waiting.id == id; });
  if (found == queue_.end()) return {404, "no such search waits"};
  queue_.erase(found);
  return {202, {}};
}

RunAnswer RunControl::Release() {
  const std::scoped_lock lock(mutex_);
  NoteEndLocked();
  if (!HeldLocked()) return {409, "nothing holds the queue"};
  held_ = false;
  LookAgainLocked();
  return {202, {}};
}

RunAnswer RunControl::Begin(const std::string& command, std::vector<std::string> arguments) {
  std::shared_ptr<controller::TuneProcess> child;
  const std::string journal_before = StampOf(controller::EventsFileOf(db_)).text;
  {
    const std::scoped_lock lock(mutex_);
    if (RunAnswer refused = StartLocked(command, std::move(arguments)); refused.status != 202) return refused;
    child = child_;
  }
  if (!child->Wait(kFirstLook)) return {202, {}};
  // One that was interrupted had begun; once the search has begun, how it ends is told by the study.
  const int exit_code = *child->exit_code();
  if (exit_code == 0 || exit_code == controller::kExitInterrupted || HasBegun(db_, journal_before)) return {202, {}};
  return {422, LastLine(child->LogTail(kMessageBytes))};
}

// Under the lock, so that nothing of the queue begins between the interrupt and the hold.
RunAnswer RunControl::Pause() {
  const std::scoped_lock lock(mutex_);
  if (RunsLocked()) {
    child_->Interrupt();
  } else if (const Result<void> interrupted = controller::InterruptHolder(db_); !interrupted.ok()) {
    return {409, interrupted.error().message};
  }
  held_ = true;
  return {202, {}};
}

RunAnswer RunControl::Stop() {
  std::shared_ptr<controller::TuneProcess> child;
  {
    const std::scoped_lock lock(mutex_);
    if (RunsLocked()) {
      child = child_;
      stopped_ = true;
      held_ = true;
    }
  }
  if (child) {
    child->EndNow();
    return {202, {}};
  }
  const RunAnswer first = Pause();
  if (first.status != 202) return first;
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // two signals at once would be one
  return Pause().status == 202 ? first : RunAnswer{202, {}};  // gone after the first
}

void RunControl::Close() {
  const std::scoped_lock lock(mutex_);
  closed_ = true;
  queue_.clear();
  LookAgainLocked();
  if (RunsLocked()) child_->Interrupt();
}

void RunControl::AwaitEnd() {
  std::shared_ptr<controller::TuneProcess> child;
  {
    const std::scoped_lock lock(mutex_);
    child = child_;
  }
  if (child && !child->Wait(controller::TuneProcess::kPatience)) child->EndNow();
}

RunControl::State RunControl::Look() const {
  State state;
  state.holder = controller::HolderOf(db_);
  const std::scoped_lock lock(mutex_);
  state.command = command_;
  for (const Queued& queued : queue_) state.waiting.push_back(queued.waiting);
  state.held = HeldLocked();
  state.failed.assign(failed_.begin(), failed_.end());
  if (!child_) return state;
  state.exit_code = child_->exit_code();
  state.ours = !state.exit_code;
  state.message = LastLine(child_->LogTail(kMessageBytes));
  return state;
}

}  // namespace hproc::web
