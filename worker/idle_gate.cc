#include "worker/idle_gate.h"

#include <algorithm>
#include <fstream>
#include <thread>

namespace hproc::worker {
namespace {

constexpr std::chrono::milliseconds kBetweenLooks{250};

}  // namespace

std::optional<int64_t> FreeBytesOf(const std::string& device) {
  if (device != "cpu") return std::nullopt;
  std::ifstream info("/proc/meminfo");
  for (std::string word; info >> word;) {
    int64_t kibibytes = 0;
    if (word == "MemAvailable:" && info >> kibibytes) return kibibytes * 1024;
  }
  return std::nullopt;
}

std::optional<int64_t> WaitForFreeBytes(int64_t needed, std::chrono::milliseconds patience,
                                        FunctionRef<std::optional<int64_t>()> look, FunctionRef<void()> waiting) {
  const auto end = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const std::optional<int64_t> free = look();
    const auto now = std::chrono::steady_clock::now();
    if (!free || *free >= needed || now >= end) return free;
    waiting();
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kBetweenLooks, end - now));
  }
}

}  // namespace hproc::worker
