// What each of several trials in flight on one machine gets of it: devices of its own, or a part of the CPU's threads.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "worker/protocol.h"

namespace hproc::controller {

// The devices that a text names: "cpu"; "cuda", "cuda:2"; "cuda:0,1,2" for three. The error names the text.
Result<std::vector<std::string>> DevicesOf(const std::string& text);

// One deployment for each of `parallel` >= 1 trials in flight, the same every time. On the CPU the threads are divided,
// one each at least; elsewhere every trial gets devices that no other has, one for each of its ranks, as a list in the
// form of DevicesOf. One trial gets all there is. The error is for the command line: too few devices.
Result<std::vector<worker::Deployment>> ShareDeployment(const worker::Deployment& whole, int parallel);

}  // namespace hproc::controller
