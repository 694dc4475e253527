#include "controller/cli/setup.h"

#include <fmt/core.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <mutex>

#include "controller/slurm/slurm_launcher.h"
#include "controller/worker_process.h"

namespace hproc::controller {

int Fail(int code, const std::string& message) {
  fmt::print(stderr, "hproc: {}\n", message);
  return code;
}

// A program of ours in the folder of this one, or where the variable says.
static Result<std::filesystem::path> ProgramBesideThis(const char* name, const char* variable) {
  std::filesystem::path program;
  if (const char* from_environment = std::getenv(variable); from_environment != nullptr && *from_environment != '\0') {
    program = from_environment;
  } else {
    std::error_code error;
    const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
    if (error) return Error{"cannot find this program's own folder: " + error.message()};
    program = self.parent_path() / name;
  }
  if (::access(program.c_str(), X_OK) != 0) return Error{program.string() + ": the program is not there or cannot be run"};
  return program;
}

Result<std::shared_ptr<const Launcher>> LauncherOf(const LaunchSpec& launch, const std::string& db) {
  if (launch.launcher == "local") return std::shared_ptr<const Launcher>();
  Result<std::filesystem::path> program = ProgramBesideThis("hproc-slurm", "HPROC_SLURM");
  if (!program.ok()) return program.error();
  auto launcher = std::make_shared<SlurmLauncher>(*std::move(program), launch.slurm_args, std::filesystem::absolute(db));
  if (Result<void> ready = launcher->Prepare(); !ready.ok()) return ready.error();
  return std::shared_ptr<const Launcher>(std::move(launcher));
}

Result<WorkerSetup> WorkerBesideThis(const std::filesystem::path& log_folder) {
  WorkerSetup setup;
  setup.arguments = {"session"};
  setup.log_folder = log_folder;
  Result<std::filesystem::path> program = ProgramBesideThis("hproc-worker", "HPROC_WORKER");
  if (!program.ok()) return program.error();
  setup.executable = *std::move(program);
  std::error_code error;
  if (!log_folder.empty()) std::filesystem::create_directories(log_folder, error);
  if (error) return Error{log_folder.string() + ": cannot create the folder: " + error.message()};
  return setup;
}

std::filesystem::path LogFolderOf(const std::string& db) { return db + ".logs"; }
std::filesystem::path TableFolderOf(const std::string& db) { return db + ".rates"; }

std::filesystem::path CachedTables() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/') {
    return std::filesystem::path(cache) / "hproc" / "rates";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    return std::filesystem::path(home) / ".cache" / "hproc" / "rates";
  }
  return std::filesystem::temp_directory_path() / "hproc-rates";
}

Result<Study> ChooseStudy(Store& store, const StudyOptions& options, ExitCode& exit_code) {
  exit_code = kExitInfrastructure;
  if (!options.study.empty()) {
    Result<std::optional<Study>> study = store.FindStudy(options.study);
    if (!study.ok()) return study.error();
    exit_code = kExitUsage;
    if (!*study) return Error{options.db + ": no study \"" + options.study + "\""};
    return std::move(**study);
  }
  Result<std::vector<Study>> studies = store.ListStudies();
  if (!studies.ok()) return studies.error();
  exit_code = kExitUsage;
  if (studies->empty()) return Error{options.db + ": no study yet"};
  for (auto study = studies->rbegin(); study != studies->rend(); ++study) {
    if (study->state != StudyState::kDone) return std::move(*study);
  }
  return std::move(studies->back());
}

Result<Opened> OpenStudy(const StudyOptions& options, ExitCode& exit_code) {
  exit_code = kExitInfrastructure;
  Result<std::unique_ptr<Store>> store = OpenSqliteStore(options.db, OpenMode::kReadOnly);
  if (!store.ok()) return store.error();
  Result<Study> study = ChooseStudy(**store, options, exit_code);
  if (!study.ok()) return study.error();
  exit_code = kExitInfrastructure;
  Result<std::vector<Trial>> trials = (*store)->ListTrials(study->id);
  if (!trials.ok()) return trials.error();
  return Opened{.store = std::move(*store), .study = std::move(*study), .trials = std::move(*trials)};
}

worker::Deployment DeploymentOf(const DeploymentOptions& options, int shots) {
  worker::Deployment deployment;
  deployment.device = options.device;
  deployment.threads = options.threads;
  deployment.world_size = options.tp;
  deployment.context = options.context > 0 ? options.context : shots > 0 ? 2048 : 1024;
  deployment.batch = options.batch;
  deployment.prefill_chunk = options.prefill_chunk;
  deployment.kv_dtype = options.kv_dtype;
  return deployment;
}

struct InterruptGuard::State {
  std::mutex mutex;
  std::function<void()> stop;
  bool interrupted = false;
  sigset_t signals{};
  sigset_t before{};
  std::jthread thread;
};

InterruptGuard::InterruptGuard(std::function<void()> stop) : state_(std::make_unique<State>()) {
  state_->stop = std::move(stop);
  sigemptyset(&state_->signals);
  for (int signal : {SIGINT, SIGTERM, SIGUSR2}) sigaddset(&state_->signals, signal);
  pthread_sigmask(SIG_BLOCK, &state_->signals, &state_->before);
  state_->thread = std::jthread([state = state_.get()](const std::stop_token& ending) {
    for (int interrupts = 0;;) {
      int signal = 0;
      if (sigwait(&state->signals, &signal) != 0 || ending.stop_requested()) return;
      if (signal == SIGUSR2) continue;  // wakes the thread at the end
      if (++interrupts > 1) {
        KillAllWorkers();  // one that is deaf would not see us go
        ::_exit(kExitInterrupted);
      }
      const std::scoped_lock lock(state->mutex);
      state->interrupted = true;
      if (state->stop) state->stop();
    }
  });
}

InterruptGuard::~InterruptGuard() {
  state_->thread.request_stop();
  pthread_kill(state_->thread.native_handle(), SIGUSR2);
  state_->thread.join();
  pthread_sigmask(SIG_SETMASK, &state_->before, nullptr);
}

void InterruptGuard::SetStop(std::function<void()> stop) {
  const std::scoped_lock lock(state_->mutex);
  state_->stop = std::move(stop);
  if (state_->interrupted && state_->stop) state_->stop();  // it came between two jobs
}

}  // namespace hproc::controller
