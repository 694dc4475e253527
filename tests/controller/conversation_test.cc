#include "controller/conversation.h"

#include <gtest/gtest.h>

#include <vector>

namespace hproc::controller {
namespace {

using worker::Event;
using worker::EventBody;
using worker::Phase;

worker::TrialJob Job() {
  worker::TrialJob job;
  job.deployment.world_size = 2;
  job.deployment.rank = 1;
  return job;
}

// A conversation that numbers events itself.
class Talk {
 public:
  explicit Talk(const worker::Job& job = Job()) : conversation(job) {}

  // "" or the violation.
  std::string Hear(EventBody body) {
    const Result<void> result = conversation.OnEvent(Event{next_seq++, 0, std::move(body)});
    return result.ok() ? "" : result.error().message;
  }
  std::string HearSample(int64_t id, evals::FinishReason finish = evals::FinishReason::kLength) {
    worker::SampleEvent sample;
    sample.completion.id = id;
    sample.completion.finish = finish;
    return Hear(sample);
  }
  template <typename R>
  std::string HearResult(R result) {
    return Hear(worker::ResultEvent{std::move(result)});
  }
  std::string Greet() { return Hear(worker::HelloEvent{1, "", "", 1, 2}); }
  void GetReady() {
    EXPECT_EQ(Greet(), "");
    EXPECT_EQ(HearResult(worker::LoadResult{}), "");
    EXPECT_EQ(HearResult(worker::ReadyResult{}), "");
    EXPECT_EQ(conversation.step(), Step::kIdle);
  }
  void AskFor(const std::vector<int64_t>& ids) {
    worker::GenerateCommand command;
    for (const int64_t id : ids) command.requests.emplace_back().id = id;
    conversation.OnCommand(command);
  }

  Conversation conversation;
  int64_t next_seq = 0;
};

TEST(Conversation, FollowsAWholeTrial) {
  Talk talk;
  EXPECT_EQ(talk.conversation.step(), Step::kStarting);
  EXPECT_EQ(talk.Greet(), "");
  EXPECT_EQ(talk.conversation.step(), Step::kWorking);
  for (const Phase phase : {Phase::kInit, Phase::kLoad}) {
    EXPECT_EQ(talk.Hear(worker::PhaseEvent{phase, true, 0}), "");
    EXPECT_EQ(talk.conversation.record().phase, phase);
    EXPECT_EQ(talk.Hear(worker::ProgressEvent{}), "");
    EXPECT_EQ(talk.Hear(worker::HeartbeatEvent{}), "");
    EXPECT_EQ(talk.Hear(worker::PhaseEvent{phase, false, 1}), "");
  }
  EXPECT_EQ(talk.Hear(worker::MemoryEvent{}), "");
  EXPECT_EQ(talk.HearResult(worker::LoadResult{}), "");
  EXPECT_EQ(talk.conversation.step(), Step::kWorking);
  EXPECT_EQ(talk.HearResult(worker::ReadyResult{}), "");
  EXPECT_EQ(talk.conversation.step(), Step::kIdle);

  talk.AskFor({7, 8});
  EXPECT_EQ(talk.conversation.step(), Step::kWorking);
  EXPECT_EQ(talk.conversation.record().phase, Phase::kGenerate);
  EXPECT_EQ(talk.HearSample(8), "");
  EXPECT_EQ(talk.HearSample(7), "");
  EXPECT_EQ(talk.HearResult(worker::GenerateResult{}), "");
  talk.AskFor({7});  // ids may come again in the next generate
  EXPECT_EQ(talk.HearSample(7), "");
  EXPECT_EQ(talk.HearResult(worker::GenerateResult{}), "");

  talk.conversation.OnCommand(worker::ThroughputCommand{});
  EXPECT_EQ(talk.HearResult(worker::ThroughputResult{}), "");
  talk.conversation.OnCommand(worker::FinishCommand{});
  EXPECT_EQ(talk.conversation.step(), Step::kFinishing);
  EXPECT_EQ(talk.HearResult(worker::ExitResult{}), "");
  EXPECT_EQ(talk.conversation.step(), Step::kEnded);
  EXPECT_TRUE(talk.conversation.record().exit_announced);
}

TEST(Conversation, FollowsAMeasureJob) {
  worker::MeasureJob job;
  Talk talk(job);
  EXPECT_EQ(talk.Hear(worker::HelloEvent{1, "", "", 0, 1}), "");
  EXPECT_EQ(talk.HearResult(worker::MeasureResult{}), "");
  EXPECT_EQ(talk.conversation.step(), Step::kIdle);
}

TEST(Conversation, WantsHelloFirstAndOnceAndFromTheRankItStarted) {
  EXPECT_EQ(Talk().Hear(worker::HeartbeatEvent{}), "the first event is not hello");
  EXPECT_EQ(Talk().Hear(worker::OutOfMemoryEvent{}), "the first event is not hello");
  EXPECT_EQ(Talk().Hear(worker::HelloEvent{1, "", "", 0, 2}), "hello from rank 0 of 2, not 1 of 2");
  Talk talk;
  EXPECT_EQ(talk.Greet(), "");
  EXPECT_EQ(talk.Greet(), "a second hello");
}

TEST(Conversation, WantsEverySequenceNumberInItsTurn) {
  Talk gap;
  gap.next_seq = 1;
  EXPECT_EQ(gap.Greet(), "seq is 1, not 0");
  Talk again;
  EXPECT_EQ(again.Greet(), "");
  again.next_seq = 0;
  EXPECT_EQ(again.Hear(worker::HeartbeatEvent{}), "seq is 0, not 1");
}

TEST(Conversation, WantsPhasesOneAfterTheOtherAndWhileThereIsWork) {
  Talk talk;
  EXPECT_EQ(talk.Greet(), "");
  EXPECT_EQ(talk.Hear(worker::PhaseEvent{Phase::kLoad, true, 0}), "");
  Talk nested = talk;
  EXPECT_EQ(nested.Hear(worker::PhaseEvent{Phase::kCache, true, 0}),
            "phase cache begins inside load");
  Talk crossed = talk;
  EXPECT_EQ(crossed.Hear(worker::PhaseEvent{Phase::kCache, false, 0}),
            "phase cache ends without having begun");
  EXPECT_EQ(talk.HearResult(worker::LoadResult{}), "a result inside phase load");
  Talk idle;
  idle.GetReady();
  EXPECT_EQ(idle.Hear(worker::PhaseEvent{Phase::kLoad, true, 0}), "phase load begins unasked");
}

TEST(Conversation, TakesOneSampleForEveryRequestAndNoOther) {
  Talk talk;
  talk.GetReady();
  EXPECT_EQ(Talk(talk).HearSample(1), "sample 1 without a generate");
  talk.AskFor({1, 2});
  EXPECT_EQ(talk.HearSample(1), "");
  EXPECT_EQ(Talk(talk).HearSample(1), "sample 1 twice");
  EXPECT_EQ(Talk(talk).HearSample(3), "sample 3, which was not asked for");
  EXPECT_EQ(Talk(talk).HearResult(worker::GenerateResult{}),
            "result:generate, but 1 requests have no sample");
}

TEST(Conversation, LetsOnlyACancelledGenerateOweSamples) {
  using evals::FinishReason;
  Talk talk;
  talk.GetReady();
  talk.AskFor({1, 2, 3});
  EXPECT_EQ(Talk(talk).HearSample(1, FinishReason::kCancelled),
            "sample 1 is cancelled, which nobody asked for");
  EXPECT_EQ(Talk(talk).HearResult(worker::GenerateResult{true, 0, 0, 0}),
            "a generate cancelled that nobody cancelled");
  talk.conversation.OnCommand(worker::CancelCommand{});
  EXPECT_EQ(talk.HearSample(1, FinishReason::kCancelled), "");
  EXPECT_EQ(talk.HearResult(worker::GenerateResult{true, 0, 0, 0}), "");
  // A cancel that crosses with the result is nothing, and does not reach into the next generate.
  talk.conversation.OnCommand(worker::CancelCommand{});
  EXPECT_EQ(talk.conversation.step(), Step::kIdle);
  talk.AskFor({4});
  EXPECT_EQ(talk.HearResult(worker::GenerateResult{true, 0, 0, 0}),
            "a generate cancelled that nobody cancelled");
}

TEST(Conversation, TakesOnlyTheResultThatIsDue) {
  Talk loading;
  EXPECT_EQ(loading.Greet(), "");
  EXPECT_EQ(Talk(loading).HearResult(worker::ReadyResult{}),
            "result:ready without a load before it");
  EXPECT_EQ(Talk(loading).HearResult(worker::MeasureResult{}),
            "result:measure without a measure job in progress");
  EXPECT_EQ(Talk(loading).HearResult(worker::ExitResult{}), "result:exit without a finish command");
  EXPECT_EQ(loading.HearResult(worker::LoadResult{}), "");
  EXPECT_EQ(loading.HearResult(worker::LoadResult{}), "result:load without a load in progress");
  Talk idle;
  idle.GetReady();
  EXPECT_EQ(Talk(idle).HearResult(worker::GenerateResult{}), "result:generate without a generate");
  EXPECT_EQ(Talk(idle).HearResult(worker::ReadyResult{}), "result:ready without a load before it");
  EXPECT_EQ(Talk(idle).HearResult(worker::ThroughputResult{}),
            "result:throughput without a throughput command");
}

TEST(Conversation, HearsNothingAfterTheEnd) {
  const EventBody ends[] = {worker::OutOfMemoryEvent{Phase::kCache, "cpu", 2, 1, "kv"},
                            worker::ErrorEvent{worker::ErrorKind::kDeviceLost, "gone"}};
  for (const EventBody& end : ends) {
    Talk talk;
    talk.GetReady();
    EXPECT_EQ(talk.Hear(end), "");
    EXPECT_EQ(talk.conversation.step(), Step::kEnded);
    talk.AskFor({1});  // crossed with the end: goes nowhere
    EXPECT_EQ(talk.Hear(worker::HeartbeatEvent{}), "an event after the last one");
  }
}

TEST(Conversation, RemembersWhatEndedIt) {
  Talk oom;
  EXPECT_EQ(oom.Greet(), "");
  EXPECT_EQ(oom.Hear(worker::OutOfMemoryEvent{Phase::kCache, "cpu", 2, 1, "kv"}), "");
  EXPECT_EQ(oom.conversation.record().oom->what, "kv");
  EXPECT_EQ(oom.conversation.record().phase, Phase::kCache);
  Talk error;
  EXPECT_EQ(error.Greet(), "");
  EXPECT_EQ(error.Hear(worker::ErrorEvent{worker::ErrorKind::kLoaderFault, "why"}), "");
  EXPECT_EQ(error.conversation.record().error->message, "why");
}

TEST(ConversationDeathTest, TakesCommandsOutOfTurnForBugs) {
  Talk talk;
  EXPECT_DEATH(talk.AskFor({1}), "a command while the worker is busy");
  talk.GetReady();
  EXPECT_DEATH(talk.AskFor({1, 1}), "two requests with one id");
}

}  // namespace
}  // namespace hproc::controller
