// Whole studies of fake models, with real processes and a store in memory.
#include "controller/tuner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/controller/fake_study.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

FloorPair PairOf(const FakeStudy& fake, const Trial& trial) {
  return fake.space().PairOf(trial.plan.floors);
}

// ---- what a study finds ----

// The plan predicts all there is, or knows nothing of a fiftieth of the memory; headroom is asked for or not.
struct Memory {
  int64_t hidden_bytes;
  int64_t headroom_bytes;
};
class TrueStaircase : public testing::TestWithParam<Memory> {};

TEST_P(TrueStaircase, IsWhereTheRecommendationStands) {
  json model = kSloping;
  model["hidden_bytes"] = GetParam().hidden_bytes;
  FakeStudy fake({.questions = 120, .settings = model});
  fake.spec.headroom_bytes = GetParam().headroom_bytes;
  const int64_t cap = fake.spec.memory_cap_bytes - fake.spec.headroom_bytes;
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  const std::vector<Trial> trials = study.Trials();
  for (const Trial& trial : trials) {
    const bool fits = fake.TrueBytes(PairOf(fake, trial)) <= cap;
    EXPECT_EQ(trial.verdict.reason == Reason::kOutOfMemory, !fits) << trial.number;
    EXPECT_THAT(trial.attempts, SizeIs(1));
  }

  ASSERT_TRUE(end.outcome.done.recommended.has_value());
  EXPECT_EQ(end.outcome.done.bound, Bound::kOutOfMemory);
  const Trial& best = trials[static_cast<size_t>(*end.outcome.done.recommended)];
  const FloorPair at = PairOf(fake, best);
  EXPECT_EQ(best.measured.memory->live_bytes, fake.TrueBytes(at));
  EXPECT_LE(fake.TrueBytes(at), cap);
  // No other plan with floors as high fits; those between two plans store the same.
  for (const bool strict : {true, false}) {
    FloorPair higher = at;
    int& rung = strict ? higher.strict : higher.lazy;
    while (fake.space().At(higher).digest == best.plan.plan_digest) ++rung;
    EXPECT_GT(fake.TrueBytes(higher), cap) << (strict ? "strict" : "lazy");
    // And it was seen not to fit.
    const std::string purpose(
        PurposeName(strict ? Purpose::kOutsideStrict : Purpose::kOutsideLazy));
    EXPECT_TRUE(std::ranges::any_of(trials, [&](const Trial& trial) {
      return trial.plan.purpose == purpose && trial.verdict.reason == Reason::kOutOfMemory &&
             trial.plan.plan_digest == fake.space().At(higher).digest;
    })) << purpose;
  }
  // Nobody that was asked everything got more right.
  for (const Trial& trial : trials) {
    if (!trial.measured.accuracy.all_questions) continue;
    EXPECT_LE(trial.measured.accuracy.strict_correct, best.measured.accuracy.strict_correct)
        << trial.number;
  }
}

INSTANTIATE_TEST_SUITE_P(Memory, TrueStaircase,
                         testing::Values(Memory{0, 0}, Memory{20'000, 0}, Memory{0, 30'000}, Memory{20'000, 30'000}));

TEST(Tuner, RunsNoPlanTwice) {
  FakeStudy fake({.questions = 60, .settings = kSloping});
  WholeStudy study(fake);
  study.Run();
  std::set<std::string> digests;
  for (const Trial& trial : study.Trials()) {
    EXPECT_TRUE(digests.insert(trial.plan.plan_digest).second) << trial.number;
  }
  EXPECT_GT(digests.size(), 3U);
}

TEST(Tuner, WritesDownWhatItFoundAndThatItIsDone) {
  FakeStudy fake;
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  EXPECT_FALSE(end.interrupted);
  EXPECT_EQ(study.Stored().state, StudyState::kDone);
  EXPECT_EQ(study.Stored().outcome_json, end.outcome_json);
  const json outcome = json::parse(end.outcome_json);
  EXPECT_EQ(outcome["recommended"]["trial"], *end.outcome.done.recommended);
  EXPECT_EQ(outcome["trials"], study.Trials().size());
  EXPECT_EQ(outcome["loads"], study.observer.starts.size());
  EXPECT_EQ(outcome["int4_g128"]["weight_bytes"], fake.space().Int4WeightBytes());
}

TEST(Tuner, RunsNothingOfAStudyThatIsDone) {
  FakeStudy fake;
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  const size_t starts = study.observer.starts.size();
  EXPECT_EQ(study.Run().outcome_json, end.outcome_json);
  EXPECT_THAT(study.observer.starts, SizeIs(starts));
}

TEST(Tuner, RecommendsTheHighestFloorsWhereTheyFitAndNothingBinds) {
  FakeStudy fake;
  fake.spec.memory_cap_bytes = 100'000'000;
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  EXPECT_EQ(end.outcome.done.bound, Bound::kNone);
  ASSERT_THAT(study.Trials(), SizeIs(1));
  EXPECT_EQ(study.Trials()[0].plan.floors, (quant::Floors{.strict = 1, .lazy = 1, .head = 0.999}));
}

// ---- baselines ----

TEST(Tuner, RunsBaselinesBesideTheSearchAndNeverRecommendsThem) {
  FakeStudy fake({.questions = 60, .settings = kSloping});
  WholeStudy alone(fake);
  alone.Run();
  const std::vector<Trial> without = alone.Trials();

  fake.spec.baselines = {TrialKind::kBaseline16Bit};
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  const std::vector<Trial> trials = study.Trials();
  ASSERT_THAT(trials, SizeIs(without.size() + 1)) << "the search does not see it";
  const Trial& baseline = trials.back();
  EXPECT_EQ(baseline.plan.kind, TrialKind::kBaseline16Bit);
  EXPECT_EQ(baseline.state, TrialState::kComplete) << "under no cap";
  EXPECT_GT(baseline.measured.memory->live_bytes, fake.spec.memory_cap_bytes);
  EXPECT_TRUE(baseline.measured.accuracy.all_questions);
  const Trial& best = trials[static_cast<size_t>(*end.outcome.done.recommended)];
  EXPECT_GT(baseline.measured.accuracy.strict_correct, best.measured.accuracy.strict_correct);
  EXPECT_EQ(best.plan.kind, TrialKind::kPoint);

  ASSERT_THAT(end.outcome.baselines, SizeIs(1));
  EXPECT_EQ(end.outcome.baselines[0].baseline, baseline.number);
  EXPECT_FALSE(end.outcome.baselines[0].fits);
  EXPECT_EQ(
      end.outcome.baselines[0].only_baseline_right - end.outcome.baselines[0].only_point_right,
      baseline.measured.accuracy.strict_correct - best.measured.accuracy.strict_correct);
}

TEST(Tuner, RunsInt4AsOneMoreBaselineUnderNoCap) {
  FakeStudy fake({.questions = 60, .settings = kSloping});
  fake.spec.baselines = {TrialKind::kBaseline16Bit, TrialKind::kBaselineInt4};
  fake.spec.memory_cap_bytes = 900'000;
  ASSERT_GT(fake.space().Int4().total_bytes, fake.spec.memory_cap_bytes);
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  const Trial baseline = study.Trials().back();
  EXPECT_EQ(baseline.plan.kind, TrialKind::kBaselineInt4);
  EXPECT_EQ(baseline.plan.plan_digest, fake.space().Int4().digest);
  EXPECT_EQ(baseline.state, TrialState::kComplete);
  EXPECT_TRUE(baseline.measured.accuracy.all_questions);
  EXPECT_EQ(baseline.measured.memory->live_bytes, baseline.plan.predicted_bytes);
  ASSERT_THAT(end.outcome.baselines, SizeIs(2));
  EXPECT_EQ(end.outcome.baselines[1].kind, TrialKind::kBaselineInt4);
  EXPECT_FALSE(end.outcome.baselines[1].fits);
  EXPECT_NE(end.outcome.done.recommended, baseline.number);
  EXPECT_EQ(json::parse(end.outcome_json)["baselines"][1]["kind"], "baseline_int4");
}

TEST(Tuner, PrunesInt4ToTheBytesOfTheRecommendedPoint) {
  FakeStudy fake({.questions = 60, .settings = kSloping});
  fake.spec.baselines = {TrialKind::kBaselineInt4Pruned};
  fake.spec.memory_cap_bytes = 700'000;
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  const std::vector<Trial> trials = study.Trials();
  ASSERT_TRUE(end.outcome.done.recommended.has_value());
  const int64_t bytes = trials[static_cast<size_t>(*end.outcome.done.recommended)].plan.predicted_weight_bytes;
  const Trial& baseline = trials.back();
  ASSERT_EQ(baseline.plan.kind, TrialKind::kBaselineInt4Pruned);
  EXPECT_LE(baseline.plan.predicted_weight_bytes, bytes);
  const Result<quant::Plan> plan = quant::PlanFromJson(baseline.plan.plan_json);
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  int64_t experts = 0;
  for (const quant::TensorPlan& tensor : plan->tensors) experts = std::max(experts, tensor.spec.experts);
  EXPECT_GE(experts, 1);
  EXPECT_LT(experts, 8);
  EXPECT_GT(quant::Int4PrunedPlan(fake.space().table(), experts + 1).total_bytes(), bytes) << "there was room for one more";
  EXPECT_EQ(baseline.state, TrialState::kComplete);
  ASSERT_THAT(end.outcome.baselines, SizeIs(1));
  EXPECT_EQ(end.outcome.baselines[0].kind, TrialKind::kBaselineInt4Pruned);
}

TEST(Tuner, PrunesNothingWhereInt4FitsOrThereAreNoExperts) {
  for (const FakeModel& model : {FakeModel{.settings = kSloping}, FakeModel{.has_lazy = false, .settings = kSloping}}) {
    FakeStudy fake(model);
    fake.spec.baselines = {TrialKind::kBaselineInt4Pruned};
    if (model.has_lazy) fake.spec.memory_cap_bytes = 100'000'000;
    WholeStudy study(fake);
    EXPECT_THAT(study.Run().outcome.baselines, IsEmpty());
    for (const Trial& trial : study.Trials()) EXPECT_EQ(trial.plan.kind, TrialKind::kPoint);
  }
}

TEST(Tuner, AsksA4BitBaselineThatTalksGarbageAllTheSame) {
  json settings = kSloping;
  settings["int4_garbage"] = true;
  FakeStudy fake({.questions = 60, .settings = settings});
  fake.spec.baselines = {TrialKind::kBaselineInt4};
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  const Trial baseline = study.Trials().back();
  ASSERT_EQ(baseline.plan.kind, TrialKind::kBaselineInt4);
  EXPECT_EQ(baseline.state, TrialState::kComplete);
  EXPECT_THAT(baseline.verdict.message, HasSubstr("garbage at probe"));
  EXPECT_TRUE(baseline.measured.accuracy.all_questions) << "what it is worth is a number";
  ASSERT_THAT(end.outcome.baselines, SizeIs(1));
}

TEST(Tuner, IsDoneThoughABaselineCannotBeRun) {
  for (const json& script : {json{{"load", {"segv"}}}, json{{"load", {"oom"}}}}) {
    FakeStudy fake;
    fake.spec.baselines = {TrialKind::kBaseline16Bit};
    WholeStudy study(fake);
    study.observer.at_start = [&](const Trial& trial) {
      if (trial.plan.kind == TrialKind::kBaseline16Bit) fake.SetScript(script);
    };
    const TuneEnd end = study.Run();
    EXPECT_TRUE(end.outcome.done.recommended.has_value());
    EXPECT_THAT(end.outcome.baselines, IsEmpty());
    EXPECT_EQ(study.Stored().state, StudyState::kDone);
    EXPECT_NE(study.Trials().back().state, TrialState::kComplete);
  }
}

// ---- failures ----

TEST(Tuner, FailsAPointThatCrashedTwiceAndLooksElsewhere) {
  FakeStudy fake({.settings = kSloping});
  fake.SetScript({{"generate",
                   {{{"do", "segv"}, {"once", fake.File("crashed")}},
                    {{"do", "segv"}, {"once", fake.File("crashed again")}}}}});
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  std::vector<const Trial*> failed;
  const std::vector<Trial> trials = study.Trials();
  for (const Trial& trial : trials) {
    if (trial.state == TrialState::kFailed) failed.push_back(&trial);
  }
  ASSERT_THAT(failed, SizeIs(1));
  EXPECT_THAT(failed[0]->attempts, SizeIs(2));
  for (const Trial& trial : trials) {
    const bool same = trial.plan.plan_digest == failed[0]->plan.plan_digest;
    EXPECT_EQ(same, &trial == failed[0]) << "a plan that crashed twice is quarantined";
  }
  ASSERT_TRUE(end.outcome.done.recommended.has_value());
  EXPECT_NE(end.outcome.done.recommended, failed[0]->number);
}

TEST(Tuner, NamesTheFaultWhereEveryCandidateFails) {
  FakeStudy fake({.script = {{"generate", {"segv"}}}});
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  EXPECT_FALSE(end.outcome.done.recommended.has_value());
  EXPECT_THAT(end.outcome.done.fault.value_or(""), HasSubstr("failed"));
  EXPECT_EQ(study.Stored().state, StudyState::kDone);
}

TEST(Tuner, InterruptsAStudyWhoseDeviceIsLostAndGoesOnOnceItIsBack) {
  FakeStudy fake(
      {.script = {{"load", {{{"do", "error"}, {"kind", "device_lost"}, {"message", "Xid 79"}}}}}});
  WholeStudy study(fake);
  const Result<TuneEnd> lost = study.TryRun();
  EXPECT_THAT(ErrorOf(lost), HasSubstr("device was lost in trial 0: Xid 79"));
  EXPECT_THAT(study.Trials(), SizeIs(1));
  EXPECT_EQ(study.Stored().state, StudyState::kInterrupted);

  fake.SetScript(json::object());
  const TuneEnd end = study.Run();
  EXPECT_TRUE(end.outcome.done.recommended.has_value());
  EXPECT_EQ(study.Stored().state, StudyState::kDone);
}

TEST(Tuner, WaitsOnceMoreForANeighbourThenLeavesTheStudyToBeResumed) {
  const json held = {{"do", "error"}, {"kind", "contaminated"}, {"message", "cuda:0 has 1 GiB free"}};
  FakeStudy fake({.settings = kSloping});
  WholeStudy undisturbed(fake);
  const TuneEnd expected = undisturbed.Run();

  FakeStudy disturbed({.settings = kSloping, .script = {{"init", {held}}}});
  WholeStudy study(disturbed);
  EXPECT_THAT(ErrorOf(study.TryRun()), HasSubstr("the device is not free in trial 0: cuda:0 has 1 GiB free"));
  ASSERT_THAT(study.Trials(), SizeIs(1));
  EXPECT_EQ(study.Trials()[0].verdict.reason, Reason::kContaminated);
  EXPECT_EQ(study.Trials()[0].attempts.size(), 2u);
  EXPECT_EQ(study.Stored().state, StudyState::kInterrupted);

  disturbed.SetScript(json::object());
  const TuneEnd end = study.Run();
  ASSERT_TRUE(end.outcome.done.recommended.has_value());
  const std::vector<Trial> trials = study.Trials();
  EXPECT_EQ(trials[static_cast<size_t>(*end.outcome.done.recommended)].plan.plan_digest,
            undisturbed.Trials()[static_cast<size_t>(*expected.outcome.done.recommended)].plan.plan_digest)
      << "the neighbour moved no boundary";
  EXPECT_EQ(trials[1].plan.plan_digest, trials[0].plan.plan_digest) << "the point is asked for again";
}

TEST(Tuner, BelievesNothingOfAModelThatTalksGarbageAsStored) {
  FakeStudy fake({.questions = 20, .settings = {{"garbage_below", {{"strict", 1.1}}}}});
  fake.spec.baselines = {TrialKind::kBaseline16Bit};
  fake.spec.max_garbage_loads = 0;
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  EXPECT_FALSE(end.outcome.done.recommended.has_value());
  EXPECT_THAT(end.outcome.done.fault.value_or(""), HasSubstr("the loader is at fault"));
  // And says so again.
  EXPECT_EQ(study.Run().outcome.done.fault, end.outcome.done.fault);
}

// ---- nothing to recommend ----

TEST(Tuner, NamesMemoryAsTheBoundWhereEvenTheLowestFloorsDoNotFit) {
  for (const bool trust_plan : {false, true}) {
    FakeStudy fake;
    fake.spec.memory_cap_bytes = 400'000;
    fake.spec.trust_plan = trust_plan;
    WholeStudy study(fake);
    const TuneEnd end = study.Run();
    EXPECT_FALSE(end.outcome.done.recommended.has_value());
    EXPECT_FALSE(end.outcome.done.fault.has_value());
    EXPECT_EQ(end.outcome.done.bound, Bound::kOutOfMemory);
    EXPECT_THAT(end.outcome.done.why, HasSubstr("even the lowest floors (0.8, 0.5) need "));
    EXPECT_THAT(study.Trials(), SizeIs(trust_plan ? 0U : 1U))
        << "a load confirms it, unless the plan is trusted";
    const json outcome = json::parse(end.outcome_json);
    EXPECT_TRUE(outcome["recommended"].is_null());
    EXPECT_EQ(outcome["bound"], "out_of_memory");
  }
}

TEST(Tuner, NamesGarbageAsTheBoundWhereAllThatFitsTalksIt) {
  // Nothing under this cap reaches both floors.
  FakeStudy fake({.settings = {{"garbage_below", {{"strict", 0.989}, {"lazy", 0.989}}}}});
  fake.spec.memory_cap_bytes = 900'000;
  ASSERT_GT(fake.TrueBytes(fake.space().PairOf({.strict = 0.989, .lazy = 0.989})), 900'000);
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  EXPECT_FALSE(end.outcome.done.recommended.has_value());
  EXPECT_EQ(end.outcome.done.bound, Bound::kGarbageOutput);
  EXPECT_FALSE(end.outcome.done.fault.has_value());
}

TEST(Tuner, TakesGarbageAtTheHighestFloorsForAFaultOfTheLoader) {
  FakeStudy fake({.script = {{"generate", {"garbage"}}}});
  fake.spec.memory_cap_bytes = 100'000'000;
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  EXPECT_FALSE(end.outcome.done.recommended.has_value());
  EXPECT_THAT(end.outcome.done.fault.value_or(""), HasSubstr("the loader is at fault"));
  EXPECT_NE(end.outcome.done.bound, Bound::kGarbageOutput) << "never a boundary";
}

TEST(Tuner, NamesAccuracyAsTheBoundWhereNoPointThatFitsReachesIt) {
  FakeStudy fake({.settings = {{"accuracy", 0.5}}});
  fake.spec.min_accuracy = 0.9;
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  EXPECT_FALSE(end.outcome.done.recommended.has_value());
  EXPECT_EQ(end.outcome.done.bound, Bound::kAccuracy);
}

TEST(Tuner, LeavesTheHeadroomAskedFor) {
  FakeStudy fake({.settings = kSloping});
  fake.spec.headroom_bytes = 100'000;
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  ASSERT_TRUE(end.outcome.done.recommended.has_value());
  const json recommended = json::parse(end.outcome_json)["recommended"];
  EXPECT_GE(recommended["headroom_bytes"], 100'000);
  EXPECT_EQ(recommended["headroom_bytes"],
            1'000'000 - recommended["measured_bytes"].get<int64_t>());
}

// ---- what a tuner is made of ----

TEST(FactsOf, PassesOverBaselinesAndWhatIsNotFinished) {
  FakeStudy fake;
  std::vector<Trial> trials(4);
  for (size_t i = 0; i < trials.size(); ++i) {
    trials[i].number = static_cast<int>(i);
    trials[i].plan = fake.PlanOf({10, 20}, Purpose::kCandidate);
    trials[i].state = TrialState::kComplete;
  }
  trials[0].plan.kind = TrialKind::kBaseline16Bit;
  trials[1].state = TrialState::kRunning;
  trials[2].state = TrialState::kWaiting;
  const std::vector<TrialFact> facts = FactsOf(trials, fake.space());
  ASSERT_THAT(facts, SizeIs(1));
  EXPECT_EQ(facts[0].number, 3);
  EXPECT_EQ(facts[0].at, (FloorPair{10, 20}));
  EXPECT_EQ(facts[0].depth, Depth::kEvaluate);
  EXPECT_EQ(facts[0].measured_bytes, 0) << "not measured";
}

TEST(LoadQuestions, TakesThePrefixOfTheOrderAndTheProbesThatGoWithIt) {
  FakeStudy fake({.questions = 30});
  EvalProtocol protocol = fake.spec.eval;
  const StudyQuestions all = *LoadQuestions(protocol);
  protocol.limit = 5;
  const StudyQuestions few = *LoadQuestions(protocol);
  EXPECT_THAT(all.order, SizeIs(30));
  EXPECT_EQ(few.order, std::vector<int>(all.order.begin(), all.order.begin() + 5));
  EXPECT_THAT(few.probes, SizeIs(6 + 4 + 5)) << "no question beyond the limit";
  protocol.limit = 31;
  EXPECT_EQ(LoadQuestions(protocol)->order, all.order);
}

TEST(LoadQuestions, RefusesOtherQuestionsThanTheStudyBeganWith) {
  FakeStudy fake;
  EvalProtocol protocol = fake.spec.eval;
  protocol.tasks_sha256 = fake.questions().task.tasks().sha256;
  EXPECT_TRUE(LoadQuestions(protocol).ok());
  protocol.tasks_sha256[0] = protocol.tasks_sha256[0] == '0' ? '1' : '0';
  EXPECT_EQ(ErrorOf(LoadQuestions(protocol)),
            fake.tasks_path() + ": the questions have changed since the study began");
  protocol.tasks_path += ".gone";
  EXPECT_THAT(ErrorOf(LoadQuestions(protocol)), HasSubstr("tasks.jsonl.gone"));
}

TEST(LoadPlanSpace, RefusesTablesThatAreNotThereDamagedOrOfAnotherCheckpoint) {
  FakeStudy fake;
  worker::MeasureResult measured = fake.measured;
  EXPECT_THAT(ErrorOf(LoadPlanSpace(measured, "v3", 0.999)), HasSubstr("'v3'"));
  measured.fingerprint = "another";
  EXPECT_THAT(ErrorOf(LoadPlanSpace(measured, "auto", 0.999)), HasSubstr("of another checkpoint"));
  measured.table_path = fake.tasks_path();
  EXPECT_THAT(ErrorOf(LoadPlanSpace(measured, "auto", 0.999)),
              HasSubstr("tasks.jsonl: not a rate table"));
  measured.table_path = "/no/such/table";
  EXPECT_THAT(ErrorOf(LoadPlanSpace(measured, "auto", 0.999)), HasSubstr("/no/such/table"));
}

TEST(MeasureRun, HandsOverTheTableAndWhoMadeIt) {
  FakeStudy fake;
  RecordingObserver observer;
  MeasureRun run(fake.setup(), &observer);
  const Result<Measured> measured =
      run.Run(fake.model_dir(), fake.File("new/tables"), fake.spec.deployment, "auto");
  ASSERT_TRUE(measured.ok()) << ErrorOf(measured);
  EXPECT_EQ(measured->worker_version, "fake");
  EXPECT_EQ(measured->device_name, "a fake device");
  EXPECT_EQ(measured->result.predicted, fake.measured.predicted);
  const Result<std::unique_ptr<PlanSpace>> space = LoadPlanSpace(measured->result, "auto", 0.999);
  ASSERT_TRUE(space.ok()) << ErrorOf(space);
  EXPECT_EQ((*space)->At({10, 20}).digest, fake.space().At({10, 20}).digest);
}

TEST(MeasureRun, OutlivesACrashAndTwoKills) {
  FakeStudy fake;
  fake.SetScript({{"init", {{{"do", "sigkill"}, {"once", fake.File("first")}}}},
                  {"measure", {{{"do", "sigkill"}, {"once", fake.File("second")}}, {{"do", "segv"}, {"once", fake.File("third")}}}}});
  RecordingObserver observer;
  MeasureRun run(fake.setup(), &observer);
  const Result<Measured> measured = run.Run(fake.model_dir(), fake.File("tables"), fake.spec.deployment, "auto");
  EXPECT_TRUE(measured.ok()) << ErrorOf(measured);
  EXPECT_TRUE(std::filesystem::exists(fake.File("third")));
}

TEST(MeasureRun, GivesTheVerdictInOneLine) {
  RecordingObserver observer;
  const json broken = {{"do", "error"}, {"kind", "bad_checkpoint"}, {"message", "no config.json"}};
  for (const auto& [script, message] :
       {std::pair<json, const char*>{{{"init", {broken}}}, "no config.json"},
        {{{"measure", {"segv"}}}, "SIGSEGV"}}) {
    FakeStudy fake({.script = script});
    MeasureRun run(fake.setup(), &observer);
    const auto result = run.Run(fake.model_dir(), fake.File("tables"), fake.spec.deployment, "auto");
    EXPECT_THAT(ErrorOf(result), HasSubstr(message));
  }
  FakeStudy fake;
  MeasureRun run(fake.setup(), &observer);
  EXPECT_THAT(ErrorOf(run.Run(fake.model_dir(), fake.tasks_path() + "/sub", fake.spec.deployment, "auto")),
              HasSubstr("tasks.jsonl/sub: cannot create the folder"));
}

}  // namespace
}  // namespace hproc::controller
