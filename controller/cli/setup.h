// What several commands begin with: the worker beside this program, folders beside a study file, one study of a file.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/result.h"
#include "controller/cli/commands.h"
#include "controller/plan_space.h"
#include "controller/store.h"
#include "controller/trial_runner.h"

namespace hproc::controller {

// Prints "hproc: message" on standard error and returns the code.
int Fail(int code, const std::string& message);

// hproc-worker beside this program, or where HPROC_WORKER says; logs into `log_folder`.
Result<WorkerSetup> WorkerBesideThis(const std::filesystem::path& log_folder);

// What the launch of a study needs beside the worker: a launcher, if not local, made ready. The error is of the
// infrastructure.
Result<std::shared_ptr<const Launcher>> LauncherOf(const LaunchSpec& launch, const std::string& db);

// FILE.db: worker logs in FILE.db.logs, rate tables in FILE.db.rates.
std::filesystem::path LogFolderOf(const std::string& db);
std::filesystem::path TableFolderOf(const std::string& db);
// $XDG_CACHE_HOME/hproc/rates, for commands without a study.
std::filesystem::path CachedTables();

// The study that the options name: by name, or the only one, or the newest that is not done, or the newest. On an error
// `exit_code` says who is at fault: the options, which name none (kExitUsage), or the store.
Result<Study> ChooseStudy(Store& store, const StudyOptions& options, ExitCode& exit_code);

// A study with its trials, opened for reading.
struct Opened {
  std::unique_ptr<Store> store;
  Study study;
  std::vector<Trial> trials;
};
// `exit_code`: as ChooseStudy's.
Result<Opened> OpenStudy(const StudyOptions& options, ExitCode& exit_code);

worker::Deployment DeploymentOf(const DeploymentOptions& options, int shots);

// While it lives, SIGINT and SIGTERM call `stop` from a thread of its own instead of ending the program; a second one ends
// it and its workers at once, with kExitInterrupted. Make it before any other thread, so that all of them leave the signals to it.
class InterruptGuard {
 public:
  explicit InterruptGuard(std::function<void()> stop);
  ~InterruptGuard();
  // What to call from now on; at once, where the signal came already.
  void SetStop(std::function<void()> stop);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hproc::controller
