// The second half of the suite: how a trial ends, its answers, threads.

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <thread>
#include <tuple>

#include "controller/study_json.h"
#include "tests/controller/store_contract.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

using testing::HasSubstr;

const Verdict kCrash = {
    .reason = Reason::kCrash, .phase = "load", .device = "", .short_bytes = 0, .message = "signal"};

// ---- the end of a trial ------------------------------------------------------------------------

TEST_P(StoreContract, WritesStateVerdictMeasurementsAndTheAttemptsEndTogether) {
  const int64_t study = NewStudy();
  for (int n = 0; n < 3; ++n) {  // complete, infeasible, failed
    const Trial running = RunningTrial(study, n);
    const Result<void> finished =
        store().FinishTrial(running.id, ExampleState(n), ExampleVerdict(n), ExampleMeasurements(n));
    ASSERT_TRUE(finished.ok()) << finished.error().message;
    const Trial trial = store().GetTrial(running.id).value();
    EXPECT_EQ(WhyNotWhole(trial), "");
    ASSERT_EQ(trial.attempts.size(), 1U);
    EXPECT_EQ(trial.attempts[0].verdict, ExampleVerdict(n));
    EXPECT_EQ(trial.attempts[0].ended_utc, trial.finished_utc);
    EXPECT_GT(trial.finished_utc, running.attempts.at(0).started_utc);
  }
}

TEST_P(StoreContract, ListsTrialsAsGetTrialGivesThem) {
  const int64_t study = NewStudy();
  const int64_t other = NewStudy("other");
  for (int n = 0; n < 6; ++n) {
    ASSERT_TRUE(AddFinishedTrial(store(), study, n).ok());
    ASSERT_TRUE(AddFinishedTrial(store(), other, n).ok());
  }
  RunningTrial(study, 6);
  NewTrialOf(study, 7);
  const std::vector<Trial> trials = store().ListTrials(study).value();
  ASSERT_EQ(trials.size(), 8U);
  for (const Trial& trial : trials) {
    EXPECT_EQ(WhyNotWhole(trial), "");
    EXPECT_EQ(ToJson(trial), ToJson(store().GetTrial(trial.id).value()));
  }
}

TEST_P(StoreContract, ListsTrialsWithoutTheirPlans) {
  const int64_t study = NewStudy();
  for (int n = 0; n < 4; ++n) ASSERT_TRUE(AddFinishedTrial(store(), study, n).ok());
  std::vector<Trial> whole = store().ListTrials(study).value();
  const std::vector<Trial> light = store().ListTrials(study, Plans::kLeftOut).value();
  ASSERT_EQ(light.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NE(whole[i].plan.plan_json, "");
    whole[i].plan.plan_json.clear();
    EXPECT_EQ(ToJson(light[i]), ToJson(whole[i]));
  }
}

TEST_P(StoreContract, KeepsWhatWasNeverMeasuredAbsent) {
  const Trial trial = RunningTrial(NewStudy(), 0);
  ASSERT_TRUE(store().FinishTrial(trial.id, TrialState::kFailed, kCrash, {}).ok());
  const TrialMeasurements measured = store().GetTrial(trial.id)->measured;
  EXPECT_FALSE(measured.load.has_value());
  EXPECT_FALSE(measured.memory.has_value());
  EXPECT_EQ(ToJson(measured), ToJson(TrialMeasurements{}));
}

TEST_P(StoreContract, KeepsALoadAndAMemoryReportThatAreThereButEmpty) {
  const Trial trial = RunningTrial(NewStudy(), 0);
  TrialMeasurements measured;
  measured.load.emplace();
  measured.memory.emplace();
  ASSERT_TRUE(store().FinishTrial(trial.id, TrialState::kComplete, {}, measured).ok());
  EXPECT_EQ(ToJson(store().GetTrial(trial.id)->measured), ToJson(measured));
}

TEST_P(StoreContract, GivesNanForWhatWasNotFinite) {
  const Trial trial = RunningTrial(NewStudy(), 0);
  const double infinity = std::numeric_limits<double>::infinity();
  TrialMeasurements measured = ExampleMeasurements(0);
  measured.load->bits_per_weight = infinity;
  measured.load->seconds = -infinity;
  measured.load->families[0].min_cosine = std::nan("");
  measured.load->families[0].max_norm_ratio = infinity;
  measured.throughput[1].seconds = infinity;
  measured.phase_seconds[2].second = std::nan("");
  ASSERT_TRUE(store().FinishTrial(trial.id, TrialState::kComplete, {}, measured).ok());
  const TrialMeasurements kept = store().GetTrial(trial.id)->measured;
  EXPECT_TRUE(std::isnan(kept.load->bits_per_weight));
  EXPECT_TRUE(std::isnan(kept.load->seconds));
  EXPECT_TRUE(std::isnan(kept.load->families[0].min_cosine));
  EXPECT_TRUE(std::isnan(kept.load->families[0].max_norm_ratio));
  EXPECT_EQ(kept.load->families[0].mean_cosine, 0.97);
  EXPECT_TRUE(std::isnan(kept.throughput[1].seconds));
  EXPECT_TRUE(std::isnan(kept.phase_seconds[2].second));
}

TEST_P(StoreContract, KeepsNumbersToTheLastBit) {
  const int64_t study = NewStudy();
  NewTrial plan = ExamplePlan(0);
  plan.floors.strict = 0.1 + 0.2;
  plan.predicted_bytes = std::numeric_limits<int64_t>::max();
  const int64_t id = store().AddTrial(study, plan)->id;
  ASSERT_TRUE(store().StartAttempt(id, "").ok());
  TrialMeasurements measured;
  measured.phase_seconds = {{"load", 5e-324}, {"warmup", 1e308}};
  Verdict verdict = ExampleVerdict(1);
  verdict.short_bytes = std::numeric_limits<int64_t>::min();
  ASSERT_TRUE(store().FinishTrial(id, TrialState::kInfeasible, verdict, measured).ok());
  const Trial trial = store().GetTrial(id).value();
  EXPECT_EQ(trial.plan.floors.strict, 0.1 + 0.2);
  EXPECT_EQ(trial.plan.predicted_bytes, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(trial.verdict.short_bytes, std::numeric_limits<int64_t>::min());
  EXPECT_EQ(trial.measured.phase_seconds, measured.phase_seconds);
}

TEST_P(StoreContract, FinishesATrialWhoseLastAttemptHasEnded) {
  const Trial trial = RunningTrial(NewStudy(), 0);
  ASSERT_TRUE(store().EndAttempt(trial.id, 1, kCrash).ok());
  Verdict hang = kCrash;
  hang.reason = Reason::kHang;
  ASSERT_TRUE(store().FinishTrial(trial.id, TrialState::kFailed, hang, {}).ok());
  const Trial failed = store().GetTrial(trial.id).value();
  EXPECT_EQ(failed.verdict, hang);
  EXPECT_EQ(failed.attempts.at(0).verdict, kCrash);
}

TEST_P(StoreContract, RefusesToFinishATrialThatDoesNotRun) {
  const Trial trial = NewTrialOf(NewStudy(), 0);
  const Result<void> finished = store().FinishTrial(trial.id, TrialState::kFailed, kCrash, {});
  ASSERT_FALSE(finished.ok());
  EXPECT_THAT(ErrorOf(finished), HasSubstr("trial 0 of study \"study\" is waiting"));
  EXPECT_EQ(store().GetTrial(trial.id)->state, TrialState::kWaiting);
}

TEST_P(StoreContract, RefusesAVerdictThatDoesNotGoWithTheState) {
  const Trial trial = RunningTrial(NewStudy(), 0);
  const auto refused = [&](TrialState state, Reason reason) {
    Verdict verdict;
    verdict.reason = reason;
    return !store().FinishTrial(trial.id, state, verdict, ExampleMeasurements(0)).ok();
  };
  EXPECT_TRUE(refused(TrialState::kWaiting, Reason::kNone));
  EXPECT_TRUE(refused(TrialState::kRunning, Reason::kNone));
  EXPECT_TRUE(refused(TrialState::kComplete, Reason::kCrash));
  EXPECT_TRUE(refused(TrialState::kComplete, Reason::kOutOfMemory));
  EXPECT_TRUE(refused(TrialState::kInfeasible, Reason::kNone));
  EXPECT_TRUE(refused(TrialState::kInfeasible, Reason::kHostOutOfMemory));
  EXPECT_TRUE(refused(TrialState::kFailed, Reason::kNone));
  EXPECT_TRUE(refused(TrialState::kFailed, Reason::kGarbageOutput));
  EXPECT_EQ(WhyNotWhole(store().GetTrial(trial.id).value()), "");
  EXPECT_EQ(store().GetTrial(trial.id)->state, TrialState::kRunning);
}

TEST_P(StoreContract, RefusesToReopenAFinishedTrial) {
  const int64_t study = NewStudy();
  for (int n = 0; n < 3; ++n) {  // complete, infeasible, failed
    const int64_t id = RunningTrial(study, n).id;
    ASSERT_TRUE(store().AddAnswers(id, ExampleAnswers(n, 0, 4)).ok());
    ASSERT_TRUE(
        store().FinishTrial(id, ExampleState(n), ExampleVerdict(n), ExampleMeasurements(n)).ok());
    const std::string before = ToJson(store().GetTrial(id).value());

    const std::string wanted = "trial " + std::to_string(n) + " of study \"study\" is " +
                               std::string(TrialStateName(ExampleState(n))) +
                               ": a finished trial never changes";
    EXPECT_THAT(ErrorOf(store().StartAttempt(id, "log")), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().EndAttempt(id, 1, kCrash)), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().AddAnswers(id, ExampleAnswers(n, 4, 1))), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().AddAnswers(id, ExampleAnswers(n, 0, 1))), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().FinishTrial(id, TrialState::kComplete, {}, {})), HasSubstr(wanted));

    EXPECT_EQ(ToJson(store().GetTrial(id).value()), before);
    EXPECT_EQ(store().ListAnswers(id).value(), ExampleAnswers(n, 0, 4));
  }
}

// ---- answers -----------------------------------------------------------------------------------

TEST_P(StoreContract, ListsAnswersByStageQuestionAndSeed) {
  const int64_t id = RunningTrial(NewStudy(), 0).id;
  EXPECT_TRUE(store().ListAnswers(id)->empty());
  std::vector<Answer> answers;
  for (const char* stage : {"smoke", "full", "probe"}) {
    for (const int question : {10, 9, 100}) {
      for (const int seed : {2, 0, 1}) {
        Answer answer = ExampleAnswer(0, question);
        answer.stage = stage;
        answer.seed = seed;
        answers.push_back(answer);
      }
    }
  }
  ASSERT_TRUE(store().AddAnswers(id, answers).ok());
  std::sort(answers.begin(), answers.end(), [](const Answer& a, const Answer& b) {
    return std::tie(a.stage, a.question, a.seed) < std::tie(b.stage, b.question, b.seed);
  });
  EXPECT_EQ(store().ListAnswers(id).value(), answers);
}

TEST_P(StoreContract, LeavesAnAnswerAsItIsWhenItComesAgain) {
  const int64_t id = RunningTrial(NewStudy(), 0).id;
  ASSERT_TRUE(store().AddAnswers(id, ExampleAnswers(0, 0, 4)).ok());
  std::vector<Answer> again = ExampleAnswers(0, 2, 4);
  for (Answer& answer : again) answer.text = "another answer";
  ASSERT_TRUE(store().AddAnswers(id, again).ok());

  std::vector<Answer> expected = ExampleAnswers(0, 0, 4);
  expected.push_back(again[2]);
  expected.push_back(again[3]);
  EXPECT_EQ(store().ListAnswers(id).value(), expected);
}

TEST_P(StoreContract, KeepsTheFirstOfTwoEqualAnswersInOneCall) {
  const int64_t id = RunningTrial(NewStudy(), 0).id;
  std::vector<Answer> answers = {ExampleAnswer(0, 0), ExampleAnswer(0, 0)};
  answers[1].text = "another answer";
  ASSERT_TRUE(store().AddAnswers(id, answers).ok());
  EXPECT_THAT(store().ListAnswers(id).value(), testing::ElementsAre(ExampleAnswer(0, 0)));
}

TEST_P(StoreContract, RefusesAnswersOfATrialThatDoesNotRun) {
  const Trial trial = NewTrialOf(NewStudy(), 0);
  EXPECT_THAT(ErrorOf(store().AddAnswers(trial.id, ExampleAnswers(0, 0, 1))),
              HasSubstr("trial 0 of study \"study\" is waiting"));
  EXPECT_TRUE(store().ListAnswers(trial.id)->empty());
}

TEST_P(StoreContract, RefusesAnswersThatNoAttemptGives) {
  const Trial trial = RunningTrial(NewStudy(), 0);
  ASSERT_TRUE(store().EndAttempt(trial.id, 1, kCrash).ok());
  EXPECT_THAT(ErrorOf(store().AddAnswers(trial.id, ExampleAnswers(0, 0, 1))), HasSubstr("only an attempt that runs gives answers"));
  EXPECT_TRUE(store().ListAnswers(trial.id)->empty());
}

TEST_P(StoreContract, WithdrawsTheAnswersOfOneAttemptAndNoOther) {
  const int64_t study = NewStudy();
  const int64_t beside = RunningTrial(study, 1).id;
  ASSERT_TRUE(store().AddAnswers(beside, ExampleAnswers(1, 0, 2)).ok());
  const int64_t id = RunningTrial(study, 0).id;
  ASSERT_TRUE(store().AddAnswers(id, ExampleAnswers(0, 0, 3)).ok());
  ASSERT_TRUE(store().EndAttempt(id, 1, kCrash).ok());
  EXPECT_EQ(store().ListAnswers(id).value(), ExampleAnswers(0, 0, 3)) << "a crash says nothing against them";

  ASSERT_TRUE(store().StartAttempt(id, "").ok());
  std::vector<Answer> again = ExampleAnswers(0, 2, 4);  // one of them is there, and the first attempt's
  ASSERT_TRUE(store().AddAnswers(id, again).ok());
  Verdict fault = kCrash;
  fault.reason = Reason::kLoaderFault;
  ASSERT_TRUE(store().EndAttempt(id, 2, fault, GivenAnswers::kWithdrawn).ok());
  EXPECT_EQ(store().ListAnswers(id).value(), ExampleAnswers(0, 0, 3));
  EXPECT_EQ(store().GetTrial(id)->attempts.at(1).verdict, fault);
  EXPECT_EQ(store().ListAnswers(beside).value(), ExampleAnswers(1, 0, 2));

  // They are taken when they come again.
  ASSERT_TRUE(store().StartAttempt(id, "").ok());
  for (Answer& answer : again) answer.text = "another answer";
  ASSERT_TRUE(store().AddAnswers(id, again).ok());
  std::vector<Answer> expected = ExampleAnswers(0, 0, 3);
  expected.insert(expected.end(), again.begin() + 1, again.end());
  EXPECT_EQ(store().ListAnswers(id).value(), expected);

  // An attempt that is over keeps them.
  EXPECT_THAT(ErrorOf(store().EndAttempt(id, 1, fault, GivenAnswers::kWithdrawn)), HasSubstr("already ended"));
  EXPECT_EQ(store().ListAnswers(id).value(), expected);
}

TEST_P(StoreContract, AddsAllAnswersOrNone) {
  const int64_t id = RunningTrial(NewStudy(), 0).id;
  std::vector<Answer> answers = ExampleAnswers(0, 0, 5);
  answers[3].stage = "";
  EXPECT_THAT(ErrorOf(store().AddAnswers(id, answers)), HasSubstr("stage"));
  EXPECT_TRUE(store().ListAnswers(id)->empty());
}

TEST_P(StoreContract, KeepsTextByteForByte) {
  using std::string_literals::operator""s;
  std::string megabyte(size_t{1} << 20, 'x');
  for (size_t i = 0; i < megabyte.size(); i += 251) megabyte[i] = static_cast<char>(i);
  const std::vector<std::string> texts = {"",
                                          "\0"s,
                                          "before\0after"s,
                                          "🚀 模型 é",
                                          "half \xf0\x9f\x9a",
                                          "\xff\xfe\x80",
                                          "'\"\\\n\r\t%s?1",
                                          megabyte};
  const int64_t id = RunningTrial(NewStudy(), 0).id;
  std::vector<Answer> answers;
  for (const std::string& text : texts) {
    Answer answer = ExampleAnswer(0, static_cast<int>(answers.size()));
    answer.text = text;
    answer.strict = text.substr(0, 64);
    answer.flexible = text.substr(0, 64);
    answers.push_back(answer);
  }
  ASSERT_TRUE(store().AddAnswers(id, answers).ok());
  EXPECT_EQ(store().ListAnswers(id).value(), answers);

  Verdict verdict = kCrash;
  verdict.message = "NUL \0 and \xff"s;
  ASSERT_TRUE(store().FinishTrial(id, TrialState::kFailed, verdict, {}).ok());
  EXPECT_EQ(store().GetTrial(id)->verdict, verdict);
}

TEST_P(StoreContract, HoldsAFullTestSetForEachTrial) {
  const int64_t study = NewStudy();
  for (int n = 0; n < 2; ++n) {
    const int64_t id = RunningTrial(study, n).id;
    for (int first = 0; first < 1319; first += 100) {
      ASSERT_TRUE(
          store().AddAnswers(id, ExampleAnswers(n, first, std::min(100, 1319 - first))).ok());
    }
    EXPECT_EQ(store().ListAnswers(id).value(), ExampleAnswers(n, 0, 1319));
  }
}

// ---- threads -----------------------------------------------------------------------------------

TEST_P(StoreContract, SerializesCallsOfSeveralThreads) {
  constexpr int kThreads = 4;
  constexpr int kTrialsPerThread = 12;
  const int64_t study = NewStudy();
  Store& shared = store();
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&shared, study, thread] {
        for (int i = 0; i < kTrialsPerThread; ++i) {
          Result<Trial> trial = shared.AddTrial(study, ExamplePlan(thread * kTrialsPerThread + i));
          ASSERT_TRUE(trial.ok()) << trial.error().message;
          ASSERT_TRUE(shared.StartAttempt(trial->id, "log").ok());
          ASSERT_TRUE(shared.AddAnswers(trial->id, ExampleAnswers(0, 0, 3)).ok());
          ASSERT_TRUE(shared.ListTrials(study).ok());
          ASSERT_TRUE(shared.FinishTrial(trial->id, TrialState::kComplete, {}, {}).ok());
        }
      });
    }
  }
  const std::vector<Trial> trials = store().ListTrials(study).value();
  ASSERT_EQ(trials.size(), static_cast<size_t>(kThreads * kTrialsPerThread));
  std::set<std::string> digests;
  for (size_t i = 0; i < trials.size(); ++i) {
    EXPECT_EQ(trials[i].number, static_cast<int>(i));
    EXPECT_EQ(trials[i].state, TrialState::kComplete);
    digests.insert(trials[i].plan.plan_digest);
  }
  EXPECT_EQ(digests.size(), trials.size());
}

}  // namespace
}  // namespace hproc::controller
