#include "controller/oom_kills.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/controller/fake.h"

namespace hproc::controller {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(OomKillFiles, FindsTheCgroupOfVersion2) {
  EXPECT_THAT(OomKillFiles("0::/user.slice/session-2.scope\n",
                           "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"),
              ElementsAre("/sys/fs/cgroup/user.slice/session-2.scope/memory.events.local",
                          "/sys/fs/cgroup/user.slice/session-2.scope/memory.events"));
}

TEST(OomKillFiles, FindsTheMemoryControllerOfVersion1BesideAVersion2WithoutOne) {
  EXPECT_THAT(OomKillFiles("9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n",
                           "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,cpu,memory\n"
                           "36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n"
                           "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"),
              ElementsAre("/sys/fs/cgroup/memory/a/b/memory.oom_control",
                          "/sys/fs/cgroup/unified/memory.events.local",
                          "/sys/fs/cgroup/unified/memory.events"));
}

TEST(OomKillFiles, FindsTheCgroupOfAContainerThatSeesOnlyItsOwn) {
  // The mount shows the hierarchy from /docker/1 on; the process is in it, or below it.
  const std::string mounts =
      "35 31 0:32 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup ro,memory\n";
  EXPECT_THAT(OomKillFiles("4:memory:/docker/1\n", mounts),
              ElementsAre("/sys/fs/cgroup/memory/memory.oom_control"));
  EXPECT_THAT(OomKillFiles("4:memory:/docker/1/job\n", mounts),
              ElementsAre("/sys/fs/cgroup/memory/job/memory.oom_control"));
}

TEST(OomKillFiles, FindsNothingWhereThereIsNothing) {
  EXPECT_THAT(OomKillFiles("", ""), IsEmpty());
  EXPECT_THAT(OomKillFiles("0::/../outside\n", "30 23 0:26 / /c rw - cgroup2 cgroup2 rw\n"),
              IsEmpty());
  EXPECT_THAT(OomKillFiles("garbage\n::\n", "30 - \n30 23 0:26 / - cgroup2\n"), IsEmpty());
}

TEST(OomKillCounter, ReadsTheCounterAmongTheOtherLines) {
  const TestFolder folder;
  const auto read = [&](const std::string& content) {
    EXPECT_TRUE(WriteFileAtomically(folder / "events", content).ok());
    return OomKillCounter(folder / "events").Read();
  };
  EXPECT_EQ(read("low 0\nhigh 3\nmax 9\noom 2\noom_kill 17\noom_group_kill 4\n"), 17);
  EXPECT_EQ(read("oom_kill_disable 1\nunder_oom 0\noom_kill 5\n"), 5);
  EXPECT_EQ(read("oom_kill_disable 1\nunder_oom 0\n"), std::nullopt);  // kernels before 4.13
  EXPECT_EQ(read("oom_kill many\n"), std::nullopt);
}

TEST(OomKillCounter, SaysThatItKnowsNothing) {
  EXPECT_EQ(OomKillCounter({}).Read(), std::nullopt);
  EXPECT_EQ(OomKillCounter("/no/such/file").Read(), std::nullopt);
}

}  // namespace
}  // namespace hproc::controller
