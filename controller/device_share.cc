#include "controller/device_share.h"

#include <sched.h>

#include <algorithm>
#include <string_view>

namespace hproc::controller {
namespace {

constexpr std::string_view kCuda = "cuda";

// Of this process; a job or a container may have fewer than the machine.
int AvailableThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

std::string Joined(std::vector<std::string>::const_iterator first, std::vector<std::string>::const_iterator last) {
  std::string text = *first;
  while (++first != last) text += "," + first->substr(kCuda.size() + 1);
  return text;
}

}  // namespace

Result<std::vector<std::string>> DevicesOf(const std::string& text) {
  if (text == "cpu" || text == kCuda) return std::vector<std::string>{text};
  const Error bad{"device '" + text + "' is none of cpu, cuda, cuda:N, cuda:N,M"};
  if (!text.starts_with("cuda:")) return bad;
  std::vector<std::string> devices;
  for (size_t at = kCuda.size() + 1; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string number = text.substr(at, end - at);
    if (number.empty() || number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos) return bad;
    const std::string device = "cuda:" + std::to_string(std::stoi(number));
    if (std::ranges::find(devices, device) != devices.end()) return Error{"device '" + text + "' names " + device + " twice"};
    devices.push_back(device);
    at = end + 1;
  }
  return devices;
}

Result<std::vector<worker::Deployment>> ShareDeployment(const worker::Deployment& whole, int parallel) {
  std::vector<worker::Deployment> shares(static_cast<size_t>(parallel), whole);
  if (parallel == 1) return shares;
  if (whole.device == "cpu") {
    const int threads = whole.threads > 0 ? whole.threads : AvailableThreads();
    for (worker::Deployment& share : shares) share.threads = std::max(1, threads / parallel);
    return shares;
  }
  const Result<std::vector<std::string>> devices = DevicesOf(whole.device);
  if (!devices.ok()) return devices.error();
  const auto each = static_cast<size_t>(whole.world_size);
  if (devices->size() < shares.size() * each) {
    return Error{"--parallel " + std::to_string(parallel) + " needs " + std::to_string(shares.size() * each) +
                 " devices, each trial its own; --device " + whole.device + " names " + std::to_string(devices->size())};
  }
  for (size_t i = 0; i < shares.size(); ++i) {
    const auto first = devices->begin() + static_cast<std::ptrdiff_t>(i * each);
    shares[i].device = Joined(first, first + static_cast<std::ptrdiff_t>(each));
  }
  return shares;
}

}  // namespace hproc::controller
