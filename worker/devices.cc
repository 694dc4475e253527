#include "worker/devices.h"

#include <algorithm>
#include <string_view>

#include "base/printable.h"

namespace hproc::worker {

Result<std::vector<std::string>> DevicesOf(const std::string& devices, int world_size) {
  constexpr std::string_view kCuda = "cuda:";
  std::vector<std::string> by_rank;
  if (!devices.starts_with(kCuda)) {
    const bool numbered = devices == "cuda" && world_size > 1;
    for (int rank = 0; rank < world_size; ++rank) by_rank.push_back(numbered ? "cuda:" + std::to_string(rank) : devices);
    return by_rank;
  }
  for (size_t begin = kCuda.size(); begin <= devices.size();) {
    const size_t end = std::min(devices.find(',', begin), devices.size());
    std::string device = "cuda:" + devices.substr(begin, end - begin);
    if (std::ranges::find(by_rank, device) != by_rank.end()) {
      return Error{"--device " + Printable(devices) + " names " + Printable(device) + " twice"};
    }
    by_rank.push_back(std::move(device));
    begin = end + 1;
  }
  if (static_cast<int>(by_rank.size()) == world_size) return by_rank;
  return Error{"--device " + Printable(devices) + " names " + std::to_string(by_rank.size()) + " devices for " +
               std::to_string(world_size) + (world_size == 1 ? " rank" : " ranks")};
}

}  // namespace hproc::worker
