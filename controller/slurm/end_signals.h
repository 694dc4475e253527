// The signals that end the programs of the Slurm launcher, as a descriptor to poll.
#pragma once

#include <sys/signalfd.h>

#include <csignal>

#include "base/unique_fd.h"

namespace hproc::controller {

// Blocks SIGTERM, SIGINT and SIGHUP for the calling thread and those it starts, and ignores SIGPIPE. Readable once one of the
// three has come; empty where there is no descriptor to be had.
inline UniqueFd EndSignals() {
  sigset_t ends;
  ::sigemptyset(&ends);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&ends, signal);
  ::sigprocmask(SIG_BLOCK, &ends, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return UniqueFd(::signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK));
}

}  // namespace hproc::controller
