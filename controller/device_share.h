// What each of several trials in flight on one machine gets of it: devices of its own, or a part of the CPU's threads.
#pragma once

#include <vector>

#include "base/result.h"
#include "controller/study.h"
#include "worker/protocol.h"

namespace hproc::controller {

// One deployment for each of `parallel` >= 1 trials in flight, the same every time. On the CPU the threads are divided,
// one each at least; elsewhere every trial gets devices that no other has, one for each of its ranks, named as worker/devices.h
// has it. One trial gets all there is. The error is for the command line: other devices named than are needed.
Result<std::vector<worker::Deployment>> ShareDeployment(const worker::Deployment& whole, int parallel);

// What each trial in flight gets of the machine, one entry a slot. The error is for the command line.
Result<std::vector<worker::Deployment>> SharesOf(const StudySpec& spec);

}  // namespace hproc::controller
