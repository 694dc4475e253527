#include "controller/device_share.h"

#include <sched.h>

#include <algorithm>
#include <span>
#include <string>

#include "worker/devices.h"

namespace hproc::controller {
namespace {

// Of this process; a job or a container may have fewer than the machine.
int AvailableThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// As worker/devices.h reads it again.
std::string Joined(std::span<const std::string> devices) {
  std::string text = devices[0];
  for (const std::string& device : devices.subspan(1)) text += "," + device.substr(device.find(':') + 1);
  return text;
}

}  // namespace

Result<std::vector<worker::Deployment>> ShareDeployment(const worker::Deployment& whole, int parallel) {
  std::vector<worker::Deployment> shares(static_cast<size_t>(parallel), whole);
  if (parallel == 1) return shares;
  if (whole.device == "cpu") {
    const int threads = whole.threads > 0 ? whole.threads : AvailableThreads();
    for (worker::Deployment& share : shares) share.threads = std::max(1, threads / parallel);
    return shares;
  }
  const Result<std::vector<std::string>> devices = worker::DevicesOf(whole.device, parallel * whole.world_size);
  if (!devices.ok()) return Error{"--parallel " + std::to_string(parallel) + ": " + devices.error().message};
  const auto each = static_cast<size_t>(whole.world_size);
  for (size_t i = 0; i < shares.size(); ++i) shares[i].device = Joined(std::span(*devices).subspan(i * each, each));
  return shares;
}

Result<std::vector<worker::Deployment>> SharesOf(const StudySpec& spec) {
  if (spec.launch.launcher == "local") return ShareDeployment(spec.deployment, spec.launch.parallel);
  // Each trial has a node, or the part of it that it asked for.
  return std::vector<worker::Deployment>(static_cast<size_t>(spec.launch.parallel), spec.deployment);
}

}  // namespace hproc::controller
