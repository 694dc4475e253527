// One trial through its phases, with real processes. How a process's end is judged: verdict_test.cc.
#include "controller/trial_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/file.h"
#include "controller/screening.h"
#include "tests/controller/fake_study.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using testing::StartsWith;

constexpr int kProbes = 22;  // six general ones, four sums, twelve questions
const FloorPair kMiddle{quant::LadderIndex(0.985), quant::LadderIndex(0.93)};

// One trial of a study, in a store of its own.
class OneTrial {
 public:
  explicit OneTrial(FakeModel model = {}) : fake(std::move(model)) {}

  // Adds the trial with the first call; further ones go on with it.
  TrialRunResult Run(Depth depth, FloorPair at = kMiddle) {
    if (!trial_id_) {
      study_ = *store->CreateStudy(fake.spec);
      trial_id_ = store->AddTrial(study_.id, fake.PlanOf(at, Purpose::kCandidate))->id;
    }
    WorkerSetup setup = fake.setup();
    setup.launcher = launcher;
    runner.emplace(*store, fake.spec, fake.questions(), setup, &observer);
    TrialRun run;
    run.trial = *store->GetTrial(*trial_id_);
    run.depth = depth;
    run.memory_cap_bytes = cap_bytes;
    run.predicted = {{.name = "kv_cache", .bytes = 1}};
    run.incumbent = incumbent;
    run.calibration = calibration;
    Result<TrialRunResult> result = runner->Run(run);
    EXPECT_TRUE(result.ok()) << ErrorOf(result);
    return *std::move(result);
  }

  std::vector<Answer> Answers() { return *store->ListAnswers(*trial_id_); }
  std::map<std::string, int> AnswersByStage() {
    std::map<std::string, int> count;
    for (const Answer& answer : Answers()) ++count[answer.stage];
    return count;
  }
  Trial Stored() { return *store->GetTrial(*trial_id_); }
  std::string Calibration() { return (*store->FindStudy(fake.spec.name))->calibration_json; }

  FakeStudy fake;
  RecordingObserver observer;
  std::unique_ptr<Store> store = MakeMemoryStore(TickingClock());
  std::optional<TrialRunner> runner;
  int64_t cap_bytes = 0;
  std::shared_ptr<const Launcher> launcher;
  std::vector<Answer> incumbent;
  std::optional<evals::GarbageCalibration> calibration;

 private:
  Study study_;
  std::optional<int64_t> trial_id_;
};

// Has every attempt run on this machine, as if it were another one each time.
class OtherMachines : public Launcher {
 public:
  void Launch(WorkerOptions&, const LaunchRequest&) const override {}
  void LaunchRank(WorkerOptions&, const WorkerOptions&, int) const override {}
  Result<void> Prepare() const override { return Ok(); }
};

// The answers of a trial that got every question right, in one seed.
std::vector<Answer> AllRight(const FakeStudy& fake) {
  std::vector<Answer> answers;
  for (int question : fake.questions().order) {
    Answer answer;
    answer.stage = "full";
    answer.question = question;
    answer.strict_correct = true;
    answers.push_back(answer);
  }
  return answers;
}

// ---- memory ----

TEST(TrialRunner, TakesARefusedAllocationForInfeasibleWithPhaseDeviceAndWhatItLacked) {
  OneTrial sizes;
  const int64_t weights = sizes.fake.space().At(kMiddle).weight_bytes;
  const int64_t cache = weights + kFakeCacheBytes;
  const int64_t whole = cache + kFakeActivationBytes;
  struct Case {
    int64_t cap_bytes;
    const char* phase;
    int64_t short_bytes;
  };
  for (const Case& c : {Case{weights - 5, "load", 5}, Case{weights, "cache", kFakeCacheBytes},
                        Case{cache - 1, "cache", 1}, Case{cache, "warmup", kFakeActivationBytes},
                        Case{whole - 1, "warmup", 1}}) {
    SCOPED_TRACE(c.phase);
    OneTrial one;
    one.cap_bytes = c.cap_bytes;
    const TrialRunResult result = one.Run(Depth::kEvaluate);
    EXPECT_FALSE(result.interrupted);
    EXPECT_EQ(result.trial.state, TrialState::kInfeasible);
    EXPECT_EQ(result.trial.verdict.reason, Reason::kOutOfMemory);
    EXPECT_EQ(result.trial.verdict.phase, c.phase);
    EXPECT_EQ(result.trial.verdict.device, "cpu");
    EXPECT_EQ(result.trial.verdict.short_bytes, c.short_bytes);
    EXPECT_EQ(result.trial.attempts.size(), 1U) << "a result, never retried";
    EXPECT_THAT(one.Answers(), IsEmpty());
    // What was measured before the refusal stands.
    EXPECT_EQ(result.trial.measured.load.has_value(), std::string(c.phase) != "load");
    EXPECT_EQ(result.trial.measured.memory.has_value(), std::string(c.phase) != "load");
  }
  OneTrial fits;
  fits.cap_bytes = whole;
  EXPECT_EQ(fits.Run(Depth::kLoad).trial.state, TrialState::kComplete);
}

TEST(TrialRunner, TakesMemoryThatRunsOutWhileGeneratingForInfeasibleToo) {
  for (const char* step : {"generate", "throughput"}) {
    OneTrial one({.script = {{step, {{{"do", "oom"}, {"requested", 1000}, {"available", 400}}}}}});
    const Trial trial = one.Run(Depth::kEvaluate).trial;
    EXPECT_EQ(trial.state, TrialState::kInfeasible);
    EXPECT_EQ(trial.verdict.phase, step);
    EXPECT_EQ(trial.verdict.short_bytes, 600);
    EXPECT_EQ(trial.attempts.size(), 1U);
  }
}

// ---- sense ----

TEST(TrialRunner, TakesGarbageForInfeasibleWithTheRuleAndKeepsTheTranscripts) {
  OneTrial one({.script = {{"generate", {"garbage"}}}});
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kInfeasible);
  EXPECT_EQ(trial.verdict.reason, Reason::kGarbageOutput);
  EXPECT_EQ(trial.verdict.phase, "probe");
  EXPECT_THAT(trial.verdict.message,
              AllOf(StartsWith("hard_loop: "), HasSubstr("22 of 22 probes fail")));
  EXPECT_EQ(trial.attempts.size(), 1U) << "a result, never retried";
  EXPECT_THAT(one.AnswersByStage(), ElementsAre(Pair("probe", kProbes)))
      << "no question is asked of it";
  EXPECT_EQ(one.Answers().front().text, std::string(256, '!'));
  EXPECT_THAT(trial.measured.throughput, IsEmpty());
  EXPECT_TRUE(trial.measured.memory.has_value());
  EXPECT_EQ(one.Calibration(), "") << "garbage is nobody's reference";
}

TEST(TrialRunner, TakesOneNonFiniteLogitForGarbage) {
  OneTrial one({.script = {{"generate", {{{"do", "nonfinite"}, {"after", kProbes - 1}}}}}});
  const Trial trial = one.Run(Depth::kProbe).trial;
  EXPECT_EQ(trial.verdict.reason, Reason::kGarbageOutput);
  EXPECT_THAT(trial.verdict.message,
              AllOf(StartsWith("nonfinite_logits: "), HasSubstr("probe 21")));
}

TEST(TrialRunner, CalibratesTheGarbageRulesByTheFirstSensibleTrialAndNoOther) {
  OneTrial reference;
  ASSERT_EQ(reference.Run(Depth::kProbe).trial.state, TrialState::kComplete);
  const Result<evals::GarbageCalibration> calibration =
      evals::GarbageCalibrationFromJson(reference.Calibration());
  ASSERT_TRUE(calibration.ok()) << ErrorOf(calibration);
  EXPECT_EQ(calibration->probes, kProbes);
  EXPECT_EQ(calibration->stop_rate, 1);

  // Under that calibration a model that gets nothing right is garbage; without it, it is a reference.
  const FakeModel nothing_right{.settings = {{"accuracy", 0}}};
  OneTrial judged(nothing_right);
  judged.calibration = *calibration;
  const Trial trial = judged.Run(Depth::kProbe).trial;
  EXPECT_EQ(trial.state, TrialState::kInfeasible);
  EXPECT_THAT(trial.verdict.message, StartsWith("nothing_right: "));
  EXPECT_EQ(judged.Calibration(), "");

  OneTrial first(nothing_right);
  EXPECT_EQ(first.Run(Depth::kProbe).trial.state, TrialState::kComplete);
  EXPECT_NE(first.Calibration(), "");
}

// Four of the 22 probes loop: too many to pass, too few to condemn.
const json kSuspectProbes = {{"do", "garbage"}, {"after", kProbes - 4}, {"nth", 1}};
const json kSenseAfterwards = {{"do", "sense"}, {"nth", 2}};

TEST(TrialRunner, LetsTheTaskDecideWhatSuspectProbesLeaveOpen) {
  OneTrial reference;
  reference.Run(Depth::kProbe);
  const auto run = [&](const json& generate, Depth depth) {
    OneTrial one({.script = {{"generate", generate}}});
    one.calibration = *evals::GarbageCalibrationFromJson(reference.Calibration());
    return one.Run(depth).trial;
  };
  for (const Depth depth : {Depth::kProbe, Depth::kEvaluate}) {
    const Trial trial = run({kSuspectProbes, {{"do", "garbage"}, {"nth", 2}}}, depth);
    EXPECT_EQ(trial.state, TrialState::kInfeasible);
    EXPECT_EQ(trial.verdict.reason, Reason::kGarbageOutput);
    EXPECT_EQ(trial.verdict.phase, "generate");
    EXPECT_THAT(trial.verdict.message, AllOf(StartsWith("0 of "), HasSubstr("suspect at probe: hard_loop: 4 of 22")));
    EXPECT_FALSE(trial.measured.accuracy.all_questions);
  }
  const Trial sensible = run({kSuspectProbes, kSenseAfterwards}, Depth::kProbe);
  EXPECT_EQ(sensible.state, TrialState::kComplete);
  EXPECT_THAT(sensible.verdict.message, AllOf(HasSubstr("suspect at probe: "), HasSubstr(" questions right")));
  EXPECT_LT(sensible.measured.accuracy.total, 10) << "no more than it takes to be sure";
  EXPECT_THAT(sensible.measured.throughput, IsEmpty());
  const Trial evaluated = run({kSuspectProbes, kSenseAfterwards}, Depth::kEvaluate);
  EXPECT_TRUE(evaluated.measured.accuracy.all_questions);
}

TEST(TrialRunner, CalibratesOnceTheProbesAreAnsweredWhateverEndsTheTrial) {
  OneTrial one({.script = {{"throughput",
                            {{{"do", "error"}, {"kind", "device_lost"}, {"message", "gone"}}}}}});
  EXPECT_EQ(one.Run(Depth::kEvaluate).trial.state, TrialState::kFailed);
  EXPECT_NE(one.Calibration(), "");
}

// ---- how far a trial goes ----

TEST(TrialRunner, GoesAsFarAsItIsAsked) {
  OneTrial load;
  const Trial loaded = load.Run(Depth::kLoad).trial;
  EXPECT_EQ(loaded.state, TrialState::kComplete);
  EXPECT_THAT(load.Answers(), IsEmpty());
  EXPECT_TRUE(loaded.measured.load.has_value());

  OneTrial probe;
  const Trial probed = probe.Run(Depth::kProbe).trial;
  EXPECT_EQ(probed.state, TrialState::kComplete);
  EXPECT_THAT(probe.AnswersByStage(), ElementsAre(Pair("probe", kProbes)));
  EXPECT_EQ(probed.measured.accuracy, AccuracyTally{});
  EXPECT_THAT(probed.measured.throughput, IsEmpty());
}

TEST(TrialRunner, MeasuresEverythingOfAPointThatIsEvaluated) {
  OneTrial one;
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kComplete);
  EXPECT_EQ(trial.verdict, Verdict{});
  const TrialMeasurements& measured = trial.measured;
  EXPECT_EQ(measured.load->plan_digest, trial.plan.plan_digest);
  EXPECT_EQ(measured.load->weight_bytes, trial.plan.predicted_weight_bytes);
  EXPECT_EQ(measured.memory->live_bytes, one.fake.TrueBytes(kMiddle))
      << "after warmup, not after load";
  EXPECT_THAT(measured.predicted, ElementsAre(worker::LedgerLine{.name = "kv_cache", .bytes = 1}));
  EXPECT_EQ(measured.accuracy.total, 40);
  EXPECT_EQ(measured.accuracy.strict_correct, 40);
  EXPECT_TRUE(measured.accuracy.all_questions);
  EXPECT_EQ(measured.throughput.size(), 3U * 5U) << "three kinds, five repetitions";
  std::vector<std::string> phases;
  for (const auto& [phase, seconds] : measured.phase_seconds) phases.push_back(phase);
  EXPECT_THAT(phases, ElementsAre("init", "load", "cache", "warmup"));
  EXPECT_THAT(one.observer.ends, ElementsAre(0));
  EXPECT_EQ(one.observer.questions_heard, 40);
}

TEST(TrialRunner, AsksTwentyThenTwoHundredThenTheRestInTheOrderOfTheStudy) {
  OneTrial one({.questions = 230});
  one.Run(Depth::kEvaluate);
  EXPECT_THAT(one.AnswersByStage(), ElementsAre(Pair("full", 30), Pair("probe", kProbes),
                                                Pair("screen", 180), Pair("smoke", 20)));
  std::map<int, std::string> stage_of;
  for (const Answer& answer : one.Answers()) {
    if (answer.stage != "probe") stage_of[answer.question] = answer.stage;
  }
  const std::vector<int>& order = one.fake.questions().order;
  ASSERT_EQ(stage_of.size(), order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(stage_of[order[i]], i < 20 ? "smoke" : i < 200 ? "screen" : "full") << i;
  }
}

TEST(TrialRunner, AsksEveryQuestionOncePerSeed) {
  OneTrial one;
  one.fake.spec.eval.seeds = 3;
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.measured.accuracy.total, 3 * 40);
  std::map<std::pair<int, int>, int> asked;  // seed, question
  for (const Answer& answer : one.Answers()) {
    if (answer.stage != "probe") ++asked[{answer.seed, answer.question}];
  }
  EXPECT_EQ(asked.size(), 3U * 40U);
  EXPECT_EQ(asked.rbegin()->first.first, 2);
}

// ---- stopping early ----

TEST(TrialRunner, StopsAPointThatIsClearlyWorseThanTheIncumbent) {
  OneTrial one({.questions = 230, .settings = {{"accuracy", 0.3}}});
  one.incumbent = AllRight(one.fake);
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kComplete) << "it fits and talks sense";
  EXPECT_THAT(trial.verdict.message,
              StartsWith("stopped: clearly worse than the best so far after "));
  EXPECT_FALSE(trial.measured.accuracy.all_questions);
  EXPECT_THAT(trial.measured.throughput, IsEmpty()) << "nobody asks how fast it is";

  // Where the same answers, fed to the screening one by one, say that it is enough; all are kept.
  Screening screening(one.incumbent, 230, 0);
  std::map<int, Answer> answers;
  for (const Answer& answer : one.Answers()) {
    if (answer.stage != "probe") answers[answer.question] = answer;
  }
  int needed = 0;
  for (int question : one.fake.questions().order) {
    ASSERT_TRUE(answers.contains(question));
    ++needed;
    if (screening.Add(answers[question])) break;
  }
  EXPECT_LT(needed, 100);
  EXPECT_EQ(trial.measured.accuracy.total, needed);
  EXPECT_EQ(answers.size(), static_cast<size_t>(needed));
  EXPECT_EQ(trial.verdict.message, screening.why());
}

TEST(TrialRunner, StopsAPointBelowTheAccuracyAskedFor) {
  OneTrial one({.questions = 230, .settings = {{"accuracy", 0.3}}});
  one.fake.spec.min_accuracy = 0.9;
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kComplete);
  EXPECT_THAT(trial.verdict.message,
              StartsWith("stopped: clearly below the accuracy asked for after "));
  EXPECT_LT(trial.measured.accuracy.total, 100);
  EXPECT_FALSE(trial.measured.accuracy.all_questions);
}

TEST(TrialRunner, AsksAllQuestionsOfAPointThatHoldsItsOwn) {
  OneTrial one({.questions = 230});
  one.incumbent = AllRight(one.fake);
  one.incumbent.resize(100);
  for (size_t i = 0; i < 10; ++i) one.incumbent[10 * i].strict_correct = false;
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_TRUE(trial.measured.accuracy.all_questions);
  EXPECT_EQ(trial.verdict.message, "");
}

// ---- what says nothing about the point ----

TEST(TrialRunner, TriesOnceMoreAfterACrashAndAsksOnlyWhatIsStillOpen) {
  OneTrial one({.questions = 60});
  // The probes come first, then 20 questions; of the 40 left it answers 30.
  one.fake.SetScript({{"generate", {{{"do", "segv"}, {"nth", 3}, {"after", 30}}}}});
  // The second attempt gets everything wrong: what is right then was not asked again.
  one.observer.at_attempt_end = [&] {
    one.fake.SetScript(json::object());
    one.fake.SetModel({{"accuracy", 0}});
  };
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kComplete);
  EXPECT_THAT(one.observer.failed_attempts, ElementsAre(Pair(Reason::kCrash, true)));
  ASSERT_EQ(trial.attempts.size(), 2U);
  EXPECT_EQ(trial.attempts[0].verdict.reason, Reason::kCrash);
  EXPECT_EQ(trial.attempts[0].verdict.phase, "generate");
  EXPECT_EQ(trial.attempts[1].verdict, Verdict{});
  EXPECT_EQ(trial.measured.accuracy.total, 60);
  EXPECT_EQ(trial.measured.accuracy.strict_correct, 20 + 30);
  EXPECT_TRUE(trial.measured.accuracy.all_questions);
  for (const Attempt& attempt : trial.attempts) {
    EXPECT_TRUE(std::filesystem::exists(attempt.log_path)) << "a log an attempt";
  }
  EXPECT_NE(trial.attempts[0].log_path, trial.attempts[1].log_path);
}

TEST(TrialRunner, FailsATrialWhoseSecondAttemptFailsToo) {
  OneTrial one({.script = {{"warmup", {"segv"}}}});
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kFailed);
  EXPECT_EQ(trial.verdict.reason, Reason::kCrash);
  EXPECT_EQ(trial.verdict.phase, "warmup");
  EXPECT_EQ(trial.attempts.size(), 2U);
  EXPECT_THAT(one.observer.failed_attempts,
              ElementsAre(Pair(Reason::kCrash, true), Pair(Reason::kCrash, false)));
  EXPECT_TRUE(trial.measured.memory.has_value()) << "what was measured before stands";
}

// Who kills workers from outside, and twice the same trial's, has learned nothing about the point.
TEST(TrialRunner, OutlivesTwoKillsOfOneTrial) {
  OneTrial one;
  one.fake.SetScript({{"load", {{{"do", "sigkill"}, {"once", one.fake.File("first")}}}},
                      {"generate", {{{"do", "sigkill"}, {"once", one.fake.File("second")}}}}});
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kComplete);
  ASSERT_EQ(trial.attempts.size(), 3U);
  EXPECT_EQ(trial.attempts[0].verdict.reason, Reason::kKilled);
  EXPECT_EQ(trial.attempts[1].verdict.reason, Reason::kKilled);
  EXPECT_TRUE(trial.measured.accuracy.all_questions);
}

TEST(TrialRunner, FailsATrialThatIsAlwaysKilled) {
  OneTrial one({.script = {{"load", {"sigkill"}}}});
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kFailed);
  EXPECT_EQ(trial.verdict.reason, Reason::kKilled);
  EXPECT_EQ(trial.attempts.size(), static_cast<size_t>(kMostKills));
}

TEST(TrialRunner, TakesASecondAttemptsRefusalForTheResult) {
  OneTrial one;
  one.fake.SetScript(
      {{"load", {{{"do", "segv"}, {"once", one.fake.File("crashed")}}}}, {"cache", {"oom"}}});
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kInfeasible);
  EXPECT_EQ(trial.verdict.reason, Reason::kOutOfMemory);
  EXPECT_EQ(trial.attempts.size(), 2U);
}

TEST(TrialRunner, TriesNothingAgainThatWouldEndTheSame) {
  struct Case {
    json script;
    Reason reason;
  };
  const json lost = {{"do", "error"}, {"kind", "device_lost"}, {"message", "Xid 79"}};
  const json misshapen = {
      {"do", "error"}, {"kind", "loader_fault"}, {"message", "a tensor is missing"}};
  for (const Case& c : {Case{{{"load", {"seq_gap", "hang"}}}, Reason::kProtocolError},
                        Case{{{"load", {"wrong_digest"}}}, Reason::kProtocolError},
                        Case{{{"load", {misshapen}}}, Reason::kLoaderFault},
                        Case{{{"generate", {lost}}}, Reason::kDeviceLost}}) {
    OneTrial one({.script = c.script});
    const Trial trial = one.Run(Depth::kEvaluate).trial;
    EXPECT_EQ(trial.state, TrialState::kFailed) << c.script;
    EXPECT_EQ(trial.verdict.reason, c.reason) << c.script;
    EXPECT_EQ(trial.attempts.size(), 1U) << c.script;
  }
}

TEST(TrialRunner, AsksAgainWhatAMachineAtFaultHadAnswered) {
  const json lost = {{"do", "error"}, {"kind", "device_lost"}, {"message", "Xid 79"}};
  for (json end : {lost, json{{"do", "segv"}}}) {
    OneTrial one({.questions = 60, .settings = {{"accuracy", 0}}});
    one.launcher = std::make_shared<OtherMachines>();
    one.calibration = evals::GarbageCalibration{};
    end.update({{"nth", 3}, {"after", 5}, {"once", one.fake.File("done")}});
    one.fake.SetScript({{"generate", {end}}});
    one.observer.at_attempt_end = [&] { one.fake.SetModel({{"accuracy", 1}}); };
    const Trial trial = one.Run(Depth::kEvaluate).trial;
    EXPECT_EQ(trial.state, TrialState::kComplete) << trial.verdict.message;
    ASSERT_EQ(trial.attempts.size(), 2U);
    const bool is_fault = trial.attempts[0].verdict.reason == Reason::kDeviceLost;
    // A crash says nothing against the 25 questions that were answered before it, all of them wrongly.
    EXPECT_EQ(trial.measured.accuracy.strict_correct, is_fault ? 60 : 35);
    EXPECT_EQ(one.AnswersByStage()["probe"], kProbes);
  }
}

TEST(TrialRunner, LetsWhatWasMeasuredStandWhenTheWorkerCrashesOnLeaving) {
  OneTrial one({.script = {{"finish", {"segv"}}}});
  const Trial trial = one.Run(Depth::kEvaluate).trial;
  EXPECT_EQ(trial.state, TrialState::kComplete);
  EXPECT_TRUE(trial.measured.accuracy.all_questions);
  EXPECT_EQ(trial.attempts.size(), 1U);
}

TEST(TrialRunner, SaysThatTheWorkerCannotBeStartedAndLeavesTheTrialOpen) {
  OneTrial one;
  const Study study = *one.store->CreateStudy(one.fake.spec);
  TrialRun run;
  run.trial = *one.store->AddTrial(study.id, one.fake.PlanOf(kMiddle, Purpose::kCandidate));
  WorkerSetup setup = one.fake.setup();
  setup.executable = "/no/such/worker";
  TrialRunner runner(*one.store, one.fake.spec, one.fake.questions(), setup, &one.observer);
  EXPECT_THAT(ErrorOf(runner.Run(run)), HasSubstr("/no/such/worker"));
  EXPECT_EQ(one.store->GetTrial(run.trial.id)->state, TrialState::kRunning);
}

// ---- interruption ----

TEST(TrialRunner, LeavesATrialThatIsInterruptedOpenAndGoesOnWithItLater) {
  OneTrial one({.questions = 60});
  one.observer.at_question = [&](int answered) {
    if (answered == 25) one.runner->Stop();
  };
  one.fake.SetScript({{"generate", {{{"do", "hang"}, {"nth", 3}, {"after", 5}}}}});
  const TrialRunResult cut = one.Run(Depth::kEvaluate);
  EXPECT_TRUE(cut.interrupted);
  EXPECT_EQ(one.Stored().state, TrialState::kRunning);
  ASSERT_EQ(one.Stored().attempts.size(), 1U);
  EXPECT_EQ(one.Stored().attempts[0].verdict.reason, Reason::kInterrupted);
  EXPECT_NE(one.Stored().attempts[0].ended_utc, "");
  EXPECT_EQ(one.AnswersByStage()["smoke"] + one.AnswersByStage()["screen"], 25)
      << "all that were heard";

  one.observer.at_question = [](int) {};
  one.fake.SetScript(json::object());
  one.fake.SetModel({{"accuracy", 0}});
  one.calibration = evals::GarbageCalibration{};  // the cut trial became the reference, under which this would be garbage
  const TrialRunResult whole = one.Run(Depth::kEvaluate);
  EXPECT_FALSE(whole.interrupted);
  EXPECT_EQ(whole.trial.state, TrialState::kComplete);
  EXPECT_EQ(whole.trial.attempts.size(), 2U);
  EXPECT_EQ(whole.trial.measured.accuracy.strict_correct, 25) << "the rest is wrong this time";
}

TEST(TrialRunner, StartsNothingOnceItIsStopped) {
  OneTrial one;
  one.observer.at_attempt_end = [&] { one.runner->Stop(); };
  one.fake.SetScript({{"load", {"segv"}}});
  EXPECT_TRUE(one.Run(Depth::kLoad).interrupted);
  EXPECT_EQ(one.Stored().state, TrialState::kRunning);
  EXPECT_EQ(one.Stored().attempts.size(), 1U);
}

TEST(TrialRunner, StopsAWorkerThatIsStillLoading) {
  OneTrial one({.script = {{"load", {"hang"}}}});
  one.observer.at_start = [&](const Trial&) { one.runner->Stop(); };
  EXPECT_TRUE(one.Run(Depth::kLoad).interrupted);
  EXPECT_EQ(one.Stored().attempts[0].verdict.reason, Reason::kInterrupted);
}

TEST(TrialRunner, CountsAFailureBeforeAnInterruption) {
  OneTrial one;
  one.observer.at_attempt_end = [&] { one.runner->Stop(); };
  one.fake.SetScript({{"load", {"segv"}}});
  ASSERT_TRUE(one.Run(Depth::kLoad).interrupted);
  one.observer.at_attempt_end = [] {};
  const Trial trial = one.Run(Depth::kLoad).trial;
  EXPECT_EQ(trial.state, TrialState::kFailed);
  EXPECT_EQ(trial.attempts.size(), 2U) << "tried again once, however often the study was cut off";
}

// ---- nodes to avoid ----

Attempt Tried(Reason reason, const std::string& node, int from, int to) {
  const auto at = [](int second) { return FormatUtc(std::chrono::system_clock::time_point(std::chrono::seconds(second))); };
  return {.number = 1, .started_utc = at(from), .ended_utc = at(to),
          .verdict = {.reason = reason, .phase = {}, .device = node, .short_bytes = 0, .message = {}}, .log_path = {}};
}

Trial Tried(int id, TrialState state, std::vector<Attempt> attempts) {
  Trial trial;
  trial.id = trial.number = id;
  trial.state = state;
  trial.verdict = state == TrialState::kRunning ? Verdict() : attempts.back().verdict;
  trial.attempts = std::move(attempts);
  return trial;
}

std::vector<std::string> FaultyNodes(const Trial& trial, const std::vector<Trial>& others) {
  LaunchRequest request;
  AvoidFailedNodes(trial, others, &request);
  return request.faulty;
}

TEST(AvoidFailedNodes, KeepsATrialFromNodesOfItsOwnAndOthersFaults) {
  const Trial own = Tried(1, TrialState::kRunning, {Tried(Reason::kDeviceLost, "node1", 0, 5), Tried(Reason::kCrash, "node2", 5, 9)});
  const Trial other = Tried(2, TrialState::kComplete, {Tried(Reason::kLoaderFault, "node3", 0, 5), Tried(Reason::kNone, "node4", 5, 9)});
  LaunchRequest request;
  AvoidFailedNodes(own, {own, other}, &request);
  EXPECT_THAT(request.faulty, ElementsAre("node1", "node3"));
  EXPECT_THAT(request.avoid, ElementsAre("node2"));
  // A fault that another node had, too.
  const Trial anywhere = Tried(3, TrialState::kFailed, {Tried(Reason::kLoaderFault, "node5", 0, 5), Tried(Reason::kLoaderFault, "node6", 5, 9)});
  EXPECT_THAT(FaultyNodes(Tried(4, TrialState::kRunning, {}), {anywhere}), IsEmpty());
  // One that came twice where it was.
  const Trial there = Tried(5, TrialState::kFailed, {Tried(Reason::kDeviceLost, "node5", 0, 5), Tried(Reason::kDeviceLost, "node5", 5, 9)});
  EXPECT_THAT(FaultyNodes(Tried(6, TrialState::kRunning, {}), {there}), ElementsAre("node5"));
}

TEST(AvoidFailedNodes, ForgetsAFaultOnceATrialDoesWellOnTheNode) {
  const Trial next = Tried(9, TrialState::kRunning, {});
  const Trial faulty = Tried(1, TrialState::kComplete, {Tried(Reason::kLoaderFault, "node1", 0, 5), Tried(Reason::kNone, "node2", 5, 9)});
  EXPECT_THAT(FaultyNodes(next, {faulty}), ElementsAre("node1"));
  // One that ran there at the time says nothing of what became of it, nor does one elsewhere or one that did not do well.
  const Trial beside = Tried(2, TrialState::kComplete, {Tried(Reason::kNone, "node1", 4, 20)});
  const Trial elsewhere = Tried(3, TrialState::kComplete, {Tried(Reason::kNone, "node2", 9, 20)});
  const Trial crashed = Tried(4, TrialState::kFailed, {Tried(Reason::kCrash, "node1", 9, 20)});
  EXPECT_THAT(FaultyNodes(next, {faulty, beside, elsewhere, crashed}), ElementsAre("node1"));
  const Trial later = Tried(5, TrialState::kComplete, {Tried(Reason::kNone, "node1", 9, 20)});
  EXPECT_THAT(FaultyNodes(next, {faulty, later}), IsEmpty());
  // Its own faults a trial does not forget.
  EXPECT_THAT(FaultyNodes(Tried(6, TrialState::kRunning, {Tried(Reason::kDeviceLost, "node1", 0, 5)}), {later}), ElementsAre("node1"));
}

}  // namespace
}  // namespace hproc::controller
