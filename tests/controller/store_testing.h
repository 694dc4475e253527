// What the tests of the store share: examples with every field set, a clock, a folder of their own,
// a helper process.
//
// The examples follow from a number, so that a process that did not write a trial can tell whether
// it is whole.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "controller/clock.h"
#include "controller/store.h"

namespace hproc::controller {

// ---- examples ----
StudySpec ExampleSpec(const std::string& name);
NewTrial ExamplePlan(int n);                   // its own digest for each n
TrialState ExampleState(int n);                // complete, infeasible, failed in turn
Verdict ExampleVerdict(int n);                 // fits the state
TrialMeasurements ExampleMeasurements(int n);  // everything there, finite
Answer ExampleAnswer(int n, int question);     // of trial n
std::vector<Answer> ExampleAnswers(int n, int first, int count);

// Empty where the trial is as one writer with the examples above leaves it at any moment: finished
// with all of its measurements, or unfinished with none. Otherwise what is wrong. The example's n
// is the trial's number.
std::string WhyNotWhole(const Trial& trial);

// The trial through waiting and running to its ExampleState.
Result<Trial> AddFinishedTrial(Store& store, int64_t study_id, int n);

// The message, or "no error": of a result that ought to be one.
template <typename T>
std::string ErrorOf(const Result<T>& result) {
  return result.ok() ? "no error" : result.error().message;
}

// ---- surroundings ----

// Starts at 2026-01-02T03:04:05Z; every look at it takes a second.
Clock TickingClock();

// A folder that is gone with the object.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// A file system of its own at `folder`, `bytes` large, seen by this process alone and gone with it.
// False where the machine does not permit it.
bool MountSmallDisk(const std::filesystem::path& folder, int64_t bytes);
// Makes that file system read-only, or writable again.
bool SetDiskReadOnly(const std::filesystem::path& folder, bool read_only);

// tests/controller/store_helper.cc in a process of its own; killed and reaped with the object.
class Helper {
 public:
  explicit Helper(const std::vector<std::string>& arguments);
  ~Helper();
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;

  pid_t pid() const { return pid_; }
  // The next line of its output, without the '\n'; nothing at its end.
  std::optional<std::string> ReadLine();
  void CloseInput() { input_.Reset(); }
  void Kill();  // SIGKILL, and waits
  int Wait();   // its exit status; -1 where a signal ended it

 private:
  pid_t pid_ = -1;
  UniqueFd input_;
  UniqueFd output_;
  std::string pending_;
};

}  // namespace hproc::controller
