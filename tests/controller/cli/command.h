// hproc as a process: what it is told, what it says, how it ends.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "tests/controller/store_testing.h"

namespace hproc::controller {

struct Finished {
  int exit_code = -1;  // 128 + N where signal N ended it
  std::string out;
  std::string err;
};

// Runs in a folder of its own, with an empty standard input. Killed and reaped with the object.
class Command {
 public:
  struct Options {
    std::vector<std::string> environment;  // "NAME=value", instead of one there is
    std::string stdout_file;               // empty: kept for Wait
  };

  explicit Command(const std::vector<std::string>& arguments, const Options& options);
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  void Signal(int signal) const;
  pid_t pid() const { return pid_; }
  Finished Wait();

 private:
  TestFolder folder_;
  pid_t pid_ = -1;
};

}  // namespace hproc::controller
