// What the tests of the command line share: a fake study, its file, and hproc run on it with
// fake_worker for a worker.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/controller/cli/command.h"
#include "tests/controller/fake_study.h"

namespace hproc::controller {

class CliTest : public testing::Test {
 protected:
  static Command::Options WithFakeWorker() {
    return {.environment = {"HPROC_WORKER=" HPROC_FAKE_WORKER}, .stdout_file = {}};
  }
  // Beside hproc is the real worker.
  static Command::Options WithRealWorker() {
    return {.environment = {"HPROC_WORKER="}, .stdout_file = {}};
  }

  static Finished Run(const std::vector<std::string>& arguments) {
    return Command(arguments, WithFakeWorker()).Wait();
  }

  std::string db() const { return fake_->File("study.db"); }
  std::vector<std::string> Tune(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {
        "tune",    "--model",           fake_->model_dir(), "--memory", "1000000",
        "--tasks", fake_->tasks_path(), "--context",        "128",      "--db",
        db()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  // A command on the study file.
  std::vector<std::string> On(const std::string& command,
                              const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {command, "--db", db()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  void Play(FakeModel model) { fake_ = std::make_unique<FakeStudy>(std::move(model)); }

  // The step blocks once it is met for the N-th time; AwaitBlocked waits until then.
  void BlockAt(const std::string& step, int nth = 0, int after = 0) {
    nlohmann::json note = {
        {"do", "write_file"}, {"file", Marker()}, {"text", "here"}, {"nth", nth}, {"after", after}};
    nlohmann::json block = {{"do", "hang"}, {"nth", nth}, {"after", after}};
    fake_->SetScript({{step, {note, block}}});
  }
  void AwaitBlocked() const {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!std::filesystem::exists(Marker()) && std::chrono::steady_clock::now() < limit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ASSERT_TRUE(std::filesystem::exists(Marker())) << "the worker did not get there";
  }
  void Unblock() {
    fake_->SetScript(nlohmann::json::object());
    std::filesystem::remove(Marker());
  }
  std::string Marker() const { return fake_->File("blocked"); }

  std::unique_ptr<FakeStudy> fake_ = std::make_unique<FakeStudy>();
};

// Nothing on standard output; on standard error one line, of hproc's, that says `what`.
inline void ExpectRefusal(const Finished& finished, int exit_code, const std::string& what) {
  EXPECT_EQ(finished.exit_code, exit_code) << finished.err;
  EXPECT_EQ(finished.out, "");
  EXPECT_THAT(finished.err, testing::StartsWith("hproc: "));
  EXPECT_THAT(finished.err, testing::HasSubstr(what));
  EXPECT_EQ(finished.err.find('\n') + 1, finished.err.size())
      << "more than a line: " << finished.err;
}

// As above, but progress may have been reported before.
inline void ExpectFailure(const Finished& finished, int exit_code, const std::string& what) {
  const size_t last = finished.err.rfind("hproc: ");
  ASSERT_NE(last, std::string::npos) << finished.err;
  ExpectRefusal({finished.exit_code, finished.out, finished.err.substr(last)}, exit_code, what);
  EXPECT_TRUE(last == 0 || finished.err[last - 1] == '\n');
}

}  // namespace hproc::controller
