// What the tests of supervision share: fake workers with deadlines that only a broken supervisor or
// a broken worker meets. A test about one deadline shortens that one alone: on a busy machine
// everything else may take its time.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>

#include "controller/worker_process.h"

namespace hproc::controller {

using std::chrono::milliseconds;

// A folder of its own for one test, gone with it.
class TestFolder {
 public:
  TestFolder() {
    std::string name = testing::TempDir() + "/supervision_XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TestFolder() {
    // What a launcher was made to leave behind may still be writing its last words.
    std::error_code error;
    for (int i = 0; i < 100; ++i) {
      std::filesystem::remove_all(path_, error);
      if (!error) return;
      std::this_thread::sleep_for(milliseconds(20));
    }
    ADD_FAILURE() << path_ << " stays: " << error.message();
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline WorkerOptions FakeWorker(const std::string& script) {
  WorkerOptions options;
  options.executable = HPROC_FAKE_WORKER;
  options.environment = {"HPROC_FAKE=" + script};
  return options;
}

inline worker::TrialJob MakeTrial(const std::string& plan_json = "{}") {
  worker::TrialJob job;
  job.plan_json = plan_json;
  job.deployment.context = 128;
  return job;
}

// What remains to be heard of a worker, its end included.
inline WorkerEnd AwaitEnd(WorkerProcess& process) {
  for (;;) {
    std::variant<worker::Event, WorkerEnd> next = process.NextEvent();
    if (auto* end = std::get_if<WorkerEnd>(&next)) return *end;
  }
}

// Waits for an event of one kind; fails the test when the worker ends before.
template <typename Body>
Body AwaitEvent(WorkerProcess& process) {
  for (;;) {
    std::variant<worker::Event, WorkerEnd> next = process.NextEvent();
    if (std::holds_alternative<WorkerEnd>(next)) {
      ADD_FAILURE() << "the worker ended: " << std::get<WorkerEnd>(next).log_tail;
      return {};
    }
    if (auto* body = std::get_if<Body>(&std::get<worker::Event>(next).body)) return *body;
  }
}

template <typename R>
R AwaitResult(WorkerProcess& process) {
  worker::ResultEvent result = AwaitEvent<worker::ResultEvent>(process);
  while (!testing::Test::HasFailure() && !std::holds_alternative<R>(result.result)) {
    result = AwaitEvent<worker::ResultEvent>(process);
  }
  return testing::Test::HasFailure() ? R{} : std::get<R>(result.result);
}

}  // namespace hproc::controller
