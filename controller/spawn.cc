#include "controller/spawn.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

namespace hproc::controller {
namespace {

Error SystemError(const std::string& what, int code) {
  return Error{what + ": " + std::generic_category().message(code)};
}

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

// Both ends above the numbers the child's ends will have, so that no dup2 in the child overwrites
// the source of the next (a controller started with stdin closed gets 0 for its first pipe).
Result<Pipe> MakePipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return SystemError("cannot make a pipe", errno);
  const UniqueFd low_read(ends[0]);
  const UniqueFd low_write(ends[1]);
  Pipe pipe;
  pipe.read.Reset(::fcntl(ends[0], F_DUPFD_CLOEXEC, kNotesFd + 1));
  pipe.write.Reset(::fcntl(ends[1], F_DUPFD_CLOEXEC, kNotesFd + 1));
  if (!pipe.read || !pipe.write) return SystemError("cannot make a pipe", errno);
  return pipe;
}

void SetNonBlocking(const UniqueFd& fd) {
  ::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
}

// Owner of the two objects that posix_spawn takes its orders from.
class SpawnOrders {
 public:
  SpawnOrders() {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawnattr_init(&attributes_);
  }
  ~SpawnOrders() {
    ::posix_spawnattr_destroy(&attributes_);
    ::posix_spawn_file_actions_destroy(&actions_);
  }
  SpawnOrders(const SpawnOrders&) = delete;
  SpawnOrders& operator=(const SpawnOrders&) = delete;

  // Returns 0 or an errno. The calls fail for want of memory alone. `notes` -1: none.
  int Fill(int control, int log, int events, int notes) {
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    for (const int code : {
             ::posix_spawn_file_actions_adddup2(&actions_, control, STDIN_FILENO),
             ::posix_spawn_file_actions_adddup2(&actions_, log, STDOUT_FILENO),
             ::posix_spawn_file_actions_adddup2(&actions_, log, STDERR_FILENO),
             ::posix_spawn_file_actions_adddup2(&actions_, events, kEventsFd),
             notes < 0 ? 0 : ::posix_spawn_file_actions_adddup2(&actions_, notes, kNotesFd),
             ::posix_spawn_file_actions_addclosefrom_np(&actions_, (notes < 0 ? kEventsFd : kNotesFd) + 1),
             ::posix_spawnattr_setpgroup(&attributes_, 0),
             ::posix_spawnattr_setsigmask(&attributes_, &none),
             ::posix_spawnattr_setsigdefault(&attributes_, &all),
             ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETPGROUP |
                                                          POSIX_SPAWN_SETSIGMASK |
                                                          POSIX_SPAWN_SETSIGDEF),
         }) {
      if (code != 0) return code;
    }
    return 0;
  }

  const posix_spawn_file_actions_t* actions() const { return &actions_; }
  const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::string NameOf(const std::string& variable) { return variable.substr(0, variable.find('=')); }

}  // namespace

Result<SpawnedWorker> SpawnWorker(const std::vector<std::string>& argv,
                                  const std::vector<std::string>& environment, Notes wanted) {
  HPROC_CHECK(!argv.empty(), "no executable");
  Result<Pipe> control = MakePipe();
  if (!control.ok()) return control.error();
  Result<Pipe> events = MakePipe();
  if (!events.ok()) return events.error();
  Result<Pipe> log = MakePipe();
  if (!log.ok()) return log.error();
  Pipe notes;
  if (wanted == Notes::kWanted) {
    Result<Pipe> made = MakePipe();
    if (!made.ok()) return made.error();
    notes = *std::move(made);
  }

  SpawnOrders orders;
  if (const int code = orders.Fill(control->read.get(), log->write.get(), events->write.get(),
                                  notes.write.get())) {
    return SystemError("cannot start " + argv[0], code);
  }
  SpawnedWorker worker;
  if (const int code =
          ::posix_spawn(&worker.pid, argv[0].c_str(), orders.actions(), orders.attributes(),
                        Pointers(argv).data(), Pointers(environment).data())) {
    return SystemError("cannot start " + argv[0], code);
  }
  // Not reaped yet, so the number cannot be another process's.
  worker.pidfd.Reset(static_cast<int>(::syscall(SYS_pidfd_open, worker.pid, 0)));
  if (!worker.pidfd) {
    const Error error = SystemError("cannot watch " + argv[0] + " (pidfd_open)", errno);
    KillAndReap(worker.pid);
    return error;
  }
  worker.control = std::move(control->write);
  worker.events = std::move(events->read);
  worker.log = std::move(log->read);
  worker.notes = std::move(notes.read);
  for (const UniqueFd* fd : {&worker.control, &worker.events, &worker.log}) SetNonBlocking(*fd);
  if (worker.notes) SetNonBlocking(worker.notes);
  return worker;
}

void KillAndReap(pid_t pid) {
  ::kill(-pid, SIGKILL);
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::vector<std::string> EnvironmentWith(const std::vector<std::string>& changes) {
  std::vector<std::string> environment = changes;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    bool changed = false;
    for (const std::string& change : changes) changed |= NameOf(change) == NameOf(*variable);
    if (!changed) environment.emplace_back(*variable);
  }
  return environment;
}

}  // namespace hproc::controller
