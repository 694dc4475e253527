#include "controller/worker_process.h"

#include <sys/eventfd.h>

#include <system_error>
#include <utility>

#include "controller/spawn.h"
#include "controller/supervisor.h"

namespace hproc::controller {
namespace {

Result<void> CheckLength(const char* what, const std::string& line) {
  const size_t bytes = line.size() - 1;  // without its '\n'
  if (bytes <= worker::kMaxLineBytes) return Ok();
  return Error{std::string("a ") + what + " of " + std::to_string(bytes) + " bytes, more than " +
               std::to_string(worker::kMaxLineBytes)};
}

}  // namespace

Result<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(WorkerOptions options,
                                                            const worker::Job& job) {
  std::vector<std::string> argv{options.executable.string()};
  argv.insert(argv.end(), options.arguments.begin(), options.arguments.end());
  argv.insert(argv.end(), {"--events-fd", std::to_string(kEventsFd)});

  SupervisorStart start;
  start.job = job;
  start.job_line = worker::EncodeJob(job);
  if (const Result<void> fits = CheckLength("job", start.job_line); !fits.ok()) return fits.error();
  start.wake.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!start.wake) return Error{"cannot make an eventfd: out of file descriptors"};
  start.oom_kills_before = options.oom_kills.Read();
  Result<SpawnedWorker> spawned = SpawnWorker(
      argv, EnvironmentWith(options.environment), options.is_launched ? Notes::kWanted : Notes::kNone);
  if (!spawned.ok()) return spawned.error();
  start.spawned = *std::move(spawned);
  start.argv = std::move(argv);
  const pid_t pid = start.spawned.pid;
  try {
    return std::unique_ptr<WorkerProcess>(
        new WorkerProcess(std::make_unique<Supervisor>(std::move(options), std::move(start))));
  } catch (const std::system_error& error) {  // no thread to be had
    KillAndReap(pid);
    return Error{std::string("cannot supervise a worker: ") + error.what()};
  }
}

WorkerProcess::WorkerProcess(std::unique_ptr<Supervisor> supervisor)
    : supervisor_(std::move(supervisor)) {}

WorkerProcess::~WorkerProcess() {
  supervisor_->End(KillCause::kStopped, "its owner is gone", /*at_once=*/true);
}

Result<void> WorkerProcess::Send(const worker::Command& command) {
  std::string line = worker::EncodeCommand(command);
  if (Result<void> fits = CheckLength("command", line); !fits.ok()) return fits;
  supervisor_->Send(command, std::move(line));
  return Ok();
}

std::variant<worker::Event, WorkerEnd> WorkerProcess::NextEvent() {
  return supervisor_->NextEvent();
}

void WorkerProcess::Stop(std::string why) {
  supervisor_->End(KillCause::kStopped, std::move(why), /*at_once=*/false);
}

void WorkerProcess::Reject(std::string lie) {
  supervisor_->End(KillCause::kProtocolError, std::move(lie), /*at_once=*/false);
}

std::string WorkerProcess::LogTail(size_t max_bytes) const {
  return supervisor_->LogTail(max_bytes);
}

const std::vector<std::string>& WorkerProcess::argv() const { return supervisor_->argv(); }
const std::vector<std::string>& WorkerProcess::environment() const {
  return supervisor_->environment();
}
pid_t WorkerProcess::pid() const { return supervisor_->pid(); }

}  // namespace hproc::controller
