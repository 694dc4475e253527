// Exit codes of hproc. A closed set: scripts rely on it.
#pragma once

namespace hproc::controller {

enum ExitCode : int {
  kExitDone = 0,
  kExitDrift = 1,           // verify: the operating point is not what it was
  kExitUsage = 2,
  kExitNoFeasiblePoint = 3,  // the output says which bound forbids it
  kExitInfrastructure = 4,  // a file, the checkpoint, a process or the device
  kExitInterrupted = 130,   // resumable
};

}  // namespace hproc::controller
