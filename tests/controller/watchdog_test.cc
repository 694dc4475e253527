#include "controller/watchdog.h"

#include <gtest/gtest.h>

namespace hproc::controller {
namespace {

using namespace std::chrono_literals;
using worker::Phase;

const Watchdog::TimePoint kStart{1000s};

Deadlines Limits() {
  Deadlines limits;
  limits.hello = 5s;
  limits.silence = 3s;
  limits.frozen = 10s;
  limits.phase.fill(100s);
  limits.of(Phase::kLoad) = 40s;
  limits.of(Phase::kGenerate) = 20s;
  limits.ending = 2s;
  return limits;
}

// A watchdog in a step, having heard everything so far.
Watchdog At(Step step, Phase phase = Phase::kLoad) {
  Watchdog dog(Limits(), kStart);
  dog.Enter(kStart, step, phase);
  dog.Heard(kStart, worker::HeartbeatEvent{0});
  return dog;
}

// Lets the heart beat every second for `seconds`, the counter as given; the first alarm.
std::optional<Watchdog::Alarm> Beat(Watchdog& dog, int seconds, bool counting) {
  for (int second = 1; second <= seconds; ++second) {
    const auto now = kStart + std::chrono::seconds(second);
    dog.Heard(now, worker::HeartbeatEvent{counting ? second : 0});
    if (auto alarm = dog.Check(now)) return alarm;
  }
  return std::nullopt;
}

TEST(Watchdog, GivesAWorkerUntilItsLimitToSayHello) {
  const Watchdog dog(Limits(), kStart);
  EXPECT_EQ(dog.Next(), kStart + 5s);
  EXPECT_FALSE(dog.Check(kStart + 4999ms));  // though silence and freeze would be over
  const auto alarm = dog.Check(kStart + 5s);
  ASSERT_TRUE(alarm);
  EXPECT_EQ(alarm->cause, KillCause::kDeadline);
  EXPECT_EQ(alarm->detail, "no hello within 5 s");
}

TEST(Watchdog, TakesSilenceForAHangWhileThereIsWorkAndWhileThereIsNone) {
  for (const Step step : {Step::kWorking, Step::kIdle}) {
    const Watchdog dog = At(step);
    EXPECT_FALSE(dog.Check(kStart + 2999ms));
    const auto alarm = dog.Check(kStart + 3s);
    ASSERT_TRUE(alarm);
    EXPECT_EQ(alarm->cause, KillCause::kSilent);
    EXPECT_EQ(alarm->detail, "no event for 3 s in load");
  }
}

TEST(Watchdog, TakesABeatingHeartWithoutProgressForAHang) {
  Watchdog dog = At(Step::kWorking);
  const auto alarm = Beat(dog, 30, /*counting=*/false);
  ASSERT_TRUE(alarm);
  EXPECT_EQ(alarm->cause, KillCause::kFrozen);
  EXPECT_EQ(alarm->detail, "the heart beats, but no progress for 10 s in load");
}

TEST(Watchdog, LetsASlowWorkerThatGetsOnGoOnUntilThePhaseIsOver) {
  Watchdog dog = At(Step::kWorking);
  EXPECT_FALSE(Beat(dog, 39, /*counting=*/true));
  const auto alarm = Beat(dog, 40, /*counting=*/true);
  ASSERT_TRUE(alarm);
  EXPECT_EQ(alarm->cause, KillCause::kDeadline);
  EXPECT_EQ(alarm->detail, "load: not done within 40 s");
}

TEST(Watchdog, CountsEventsOfTheWorkingThreadAsProgress) {
  Watchdog dog = At(Step::kWorking);
  EXPECT_FALSE(Beat(dog, 9, /*counting=*/false));
  dog.Heard(kStart + 9s, worker::ProgressEvent{});
  dog.Heard(kStart + 12s, worker::HeartbeatEvent{0});
  EXPECT_FALSE(dog.Check(kStart + 12s));
}

TEST(Watchdog, DoesNotWantProgressFromAnIdleWorker) {
  Watchdog dog = At(Step::kIdle);
  EXPECT_FALSE(Beat(dog, 1000, /*counting=*/false));
}

TEST(Watchdog, StartsANewLimitWithEveryPhase) {
  Watchdog dog = At(Step::kWorking);
  EXPECT_FALSE(Beat(dog, 39, /*counting=*/true));
  dog.Enter(kStart + 39s, Step::kWorking, Phase::kCache);
  dog.Enter(kStart + 39s, Step::kWorking, Phase::kCache);
  EXPECT_FALSE(Beat(dog, 138, /*counting=*/true));
  EXPECT_TRUE(Beat(dog, 139, /*counting=*/true));
}

TEST(Watchdog, GivesAGenerateItsLimitForEachCompletion) {
  Watchdog dog = At(Step::kWorking, Phase::kGenerate);
  EXPECT_FALSE(Beat(dog, 19, /*counting=*/true));
  dog.Heard(kStart + 19s, worker::SampleEvent{});
  EXPECT_FALSE(Beat(dog, 38, /*counting=*/true));
  const auto alarm = Beat(dog, 39, /*counting=*/true);
  ASSERT_TRUE(alarm);
  EXPECT_EQ(alarm->detail, "generate: no completion within 20 s");
}

TEST(Watchdog, WantsTheProcessGoneSoonAfterItsLastEvent) {
  const Watchdog dog = At(Step::kEnded);
  EXPECT_FALSE(dog.Check(kStart + 1999ms));
  EXPECT_EQ(dog.Check(kStart + 2s)->cause, KillCause::kDeadline);
}

TEST(Watchdog, WantsAnAnswerToFinish) {
  const Watchdog dog = At(Step::kFinishing);
  EXPECT_EQ(dog.Check(kStart + 2s)->detail, "no result:exit within 2 s");
}

TEST(Watchdog, DoesNotCountTimeInWhichTheControllerCouldNotListen) {
  Watchdog dog = At(Step::kWorking);
  dog.Excuse(60s);
  EXPECT_FALSE(dog.Check(kStart + 62s));
  EXPECT_EQ(dog.Next(), kStart + 63s);
  EXPECT_TRUE(dog.Check(kStart + 63s));
}

}  // namespace
}  // namespace hproc::controller
