#include "worker/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <thread>

#include "worker/devices.h"
#include "worker/ranks.h"

namespace hproc::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using namespace std::chrono_literals;

constexpr Communicator::Duration kPatience = 20s;

TEST(Communicator, GivesEveryRankTheSameSums) {
  for (const int world_size : {2, 3, 5}) {
    std::vector<std::vector<float>> floats(static_cast<size_t>(world_size));
    std::vector<std::vector<double>> doubles(floats.size());
    RunRanks(world_size, [&](const Rank& rank) {
      const auto at = static_cast<size_t>(rank.shard.rank);
      // Sums that depend on their order in float32.
      for (int i = 0; i < 3000; ++i) floats[at].push_back(std::ldexp(1.0f + static_cast<float>(i) * 1e-3f, (rank.shard.rank * 7 + i) % 30));
      doubles[at].assign(floats[at].begin(), floats[at].end());
      rank.ranks->AllReduceSum(floats[at]);
      rank.ranks->AllReduceSum(doubles[at]);
    });
    for (const auto& of_rank : floats) EXPECT_EQ(of_rank, floats[0]);
    for (const auto& of_rank : doubles) EXPECT_EQ(of_rank, doubles[0]);
    for (size_t i = 0; i < floats[0].size(); ++i) EXPECT_EQ(floats[0][i], static_cast<float>(doubles[0][i]));
  }
}

TEST(Communicator, FindsTheLargestAndPassesOnWhatIsNoNumber) {
  std::vector<std::vector<float>> values = {{1, 5, std::numeric_limits<float>::quiet_NaN()}, {2, 3, 1}, {0, 7, 9}};
  RunRanks(3, [&](const Rank& rank) { rank.ranks->AllReduceMax(values[static_cast<size_t>(rank.shard.rank)]); });
  for (const std::vector<float>& of_rank : values) {
    EXPECT_EQ(of_rank[0], 2);
    EXPECT_EQ(of_rank[1], 7);
    EXPECT_TRUE(std::isnan(of_rank[2]));
  }
}

TEST(Communicator, BroadcastsAndGathersMoreThanASocketHolds) {
  constexpr size_t kBytes = 3 << 20;
  RunRanks(3, [&](const Rank& rank) {
    std::vector<std::byte> bytes;
    if (rank.leads()) bytes.assign(kBytes, std::byte{42});
    rank.ranks->Broadcast(bytes, kPatience);
    EXPECT_EQ(bytes, std::vector<std::byte>(kBytes, std::byte{42}));
    bytes.assign(static_cast<size_t>(rank.shard.rank) * 1000000, static_cast<std::byte>(rank.shard.rank));
    const auto all = rank.ranks->Gather(bytes, kPatience);
    ASSERT_EQ(all.size(), rank.leads() ? 3u : 0u);
    for (size_t r = 0; r < all.size(); ++r) EXPECT_EQ(all[r], std::vector<std::byte>(r * 1000000, static_cast<std::byte>(r)));
  });
}

// Whoever it is that goes, and whatever the others are at.
TEST(Communicator, SaysWhichRankIsGone) {
  for (const int gone : {0, 1, 2}) {
    try {
      RunRanks(3, [&](const Rank& rank) {
        if (rank.shard.rank == gone) return;
        std::vector<double> values(10);
        rank.ranks->AllReduceSum(values);
      });
      ADD_FAILURE() << "nobody missed rank " << gone;
    } catch (const RankLost& lost) {
      EXPECT_FALSE(lost.is_silent());
      // The others see rank 0 go because of it.
      EXPECT_EQ(lost.rank(), gone);
    }
  }
}

TEST(Communicator, GivesUpOnARankThatKeepsSilent) {
  std::atomic<bool> over = false;
  std::atomic<int> ticks = 0;
  const auto start = std::chrono::steady_clock::now();
  try {
    RunRanks(2, [&](const Rank& rank) {
      if (rank.shard.rank == 1) {
        while (!over) std::this_thread::sleep_for(5ms);
        return;
      }
      rank.ranks->patience = 1500ms;
      rank.ranks->on_wait = [&] { ++ticks; };
      std::vector<double> values(10);
      try {
        rank.ranks->AllReduceSum(values);
      } catch (...) {
        over = true;
        throw;
      }
    });
    ADD_FAILURE() << "waited for good";
  } catch (const RankLost& lost) {
    EXPECT_TRUE(lost.is_silent());
    EXPECT_EQ(lost.rank(), 1);
    EXPECT_THAT(lost.what(), HasSubstr("rank 1 has kept the others waiting"));
  }
  EXPECT_GE(ticks, 1);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
}

TEST(Communicator, TellsWhatWentWrongFromWhatFollowedFromIt) {
  const auto run = [](int fails) {
    RunRanks(3, [&](const Rank& rank) {
      if (rank.shard.rank == fails) throw std::runtime_error("rank " + std::to_string(fails) + " fell");
      std::vector<double> values(10);
      rank.ranks->AllReduceSum(values);
    });
  };
  for (const int fails : {0, 2}) {
    try {
      run(fails);
      ADD_FAILURE();
    } catch (const std::exception& e) {
      EXPECT_EQ(std::string(e.what()), "rank " + std::to_string(fails) + " fell");
    }
  }
}

TEST(Rendezvous, BringsProcessesTogetherAndLeavesNothingBehind) {
  const std::string rendezvous = NewRendezvous();
  EXPECT_NE(rendezvous, NewRendezvous());
  ASSERT_TRUE(CheckRendezvous(rendezvous).ok());
  std::vector<pid_t> children;
  for (int rank = 1; rank < 3; ++rank) {
    const pid_t child = ::fork();
    if (child == 0) {
      const auto ranks = MeetRanks(rendezvous, rank, 3, kPatience);
      std::vector<double> values = {static_cast<double>(rank)};
      if (ranks.ok()) (*ranks)->AllReduceSum(values);
      ::_exit(values[0] == 3 ? 0 : 1);
    }
    children.push_back(child);
  }
  const auto ranks = MeetRanks(rendezvous, 0, 3, kPatience);
  ASSERT_TRUE(ranks.ok()) << ranks.error().message;
  std::vector<double> values = {0};
  (*ranks)->AllReduceSum(values);
  EXPECT_EQ(values[0], 3);
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_FALSE(std::filesystem::exists(rendezvous.substr(5)));
}

TEST(Rendezvous, DoesNotWaitForGood) {
  const std::string rendezvous = NewRendezvous();
  const auto first = MeetRanks(rendezvous, 0, 2, 100ms);
  ASSERT_FALSE(first.ok());
  EXPECT_EQ(first.error().message, "1 of 2 ranks did not come");
  EXPECT_FALSE(std::filesystem::exists(rendezvous.substr(5)));
  const auto second = MeetRanks(rendezvous, 1, 2, 100ms);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.error().message, HasSubstr("rank 0 did not come to the rendezvous"));
}

TEST(Rendezvous, RefusesWhatIsNoPathOfASocket) {
  EXPECT_EQ(CheckRendezvous("tcp:here").error().message, "rendezvous 'tcp:here' is not unix: and the path of a socket");
  EXPECT_FALSE(CheckRendezvous("").ok());
  EXPECT_FALSE(CheckRendezvous("unix:").ok());
  EXPECT_FALSE(CheckRendezvous("unix:relative").ok());
  EXPECT_THAT(CheckRendezvous("unix:/" + std::string(200, 'a')).error().message, HasSubstr("a path of more than 107 bytes"));
}

TEST(Devices, GiveEachRankItsOwn) {
  EXPECT_THAT(*DevicesOf("cpu", 3), ElementsAre("cpu", "cpu", "cpu"));
  EXPECT_THAT(*DevicesOf("cuda", 1), ElementsAre("cuda"));
  EXPECT_THAT(*DevicesOf("cuda", 2), ElementsAre("cuda:0", "cuda:1"));
  EXPECT_THAT(*DevicesOf("cuda:3", 1), ElementsAre("cuda:3"));
  EXPECT_THAT(*DevicesOf("cuda:2,0", 2), ElementsAre("cuda:2", "cuda:0"));
  EXPECT_EQ(DevicesOf("cuda:0,1", 4).error().message, "--device cuda:0,1 names 2 devices for 4 ranks");
  EXPECT_EQ(DevicesOf("cuda:1", 2).error().message, "--device cuda:1 names 1 devices for 2 ranks");
  EXPECT_EQ(DevicesOf("cuda:1,1", 2).error().message, "--device cuda:1,1 names cuda:1 twice");
}

}  // namespace
}  // namespace hproc::worker
