// What runs on this machine, by /proc, for tests that nothing outlives its owner; and how often such tests kill.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace hproc::controller {

// Living processes whose environment holds `mark`. (A zombie's is empty.)
std::vector<pid_t> Marked(const std::string& mark);

// The same, those left out that are gone within two seconds: a killed process is gone soon, not at once, where it is not
// ours to reap.
std::vector<pid_t> MarkedAfterAWhile(const std::string& mark);

// Children of a process, zombies among them.
std::vector<pid_t> ChildrenOf(pid_t parent);

// HPROC_TORTURE_KILLS of the environment: for a long run of a test that otherwise kills so often.
int TortureKills(int otherwise);

}  // namespace hproc::controller
