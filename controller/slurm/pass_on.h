// What the relay and the programs of the other ranks share in passing things on to their supervisor.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace hproc::controller {

// Blocks until all is written. A reader that is gone is no error: the supervisor's end shows on its other pipes, too.
inline void WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno != EINTR) return;
    if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace hproc::controller
