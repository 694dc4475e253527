// The first half of the suite: studies, trials, attempts.

#include "tests/controller/store_contract.h"

#include <gmock/gmock.h>

#include <limits>

#include "controller/study_json.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {

using testing::HasSubstr;

void StoreContract::SetUp() { under_test_ = GetParam().make(TickingClock()); }

int64_t StoreContract::NewStudy(const std::string& name) {
  return store().CreateStudy(ExampleSpec(name)).value().id;
}

Trial StoreContract::NewTrialOf(int64_t study_id, int n) {
  return store().AddTrial(study_id, ExamplePlan(n)).value();
}

Trial StoreContract::RunningTrial(int64_t study_id, int n) {
  const int64_t id = NewTrialOf(study_id, n).id;
  EXPECT_TRUE(store().StartAttempt(id, "log").ok());
  return store().GetTrial(id).value();
}

namespace {

const Verdict kCrash = {
    .reason = Reason::kCrash, .phase = "load", .device = "", .short_bytes = 0, .message = "signal"};

// ---- studies -----------------------------------------------------------------------------------

TEST_P(StoreContract, GivesBackTheStudyItCreated) {
  const Study created = store().CreateStudy(ExampleSpec("a study")).value();
  EXPECT_EQ(created.spec, ExampleSpec("a study"));
  EXPECT_EQ(created.state, StudyState::kRunning);
  EXPECT_EQ(created.created_utc.substr(0, 11), "2026-01-02T");
  EXPECT_EQ(created.outcome_json, "");
  EXPECT_EQ(created.measure_json, "");
  EXPECT_EQ(created.calibration_json, "");
  const std::optional<Study> found = store().FindStudy("a study").value();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(ToJson(*found), ToJson(created));
}

TEST_P(StoreContract, FindsNoStudyThatIsNotThere) {
  NewStudy("a study");
  for (const char* name : {"", "a stud", "A study", "a study "}) {
    EXPECT_FALSE(store().FindStudy(name).value().has_value()) << name;
  }
}

TEST_P(StoreContract, RefusesASecondStudyOfTheSameName) {
  NewStudy("taken");
  const Result<Study> second = store().CreateStudy(ExampleSpec("taken"));
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(ErrorOf(second), HasSubstr("\"taken\""));
  EXPECT_EQ(store().ListStudies()->size(), 1U);
}

TEST_P(StoreContract, TakesAnyPrintableNameUpTo200Bytes) {
  const std::vector<std::string> names = {"x",
                                          "a/b c",
                                          "'; DROP TABLE studies; --",
                                          "Größe 模型 🚀",
                                          "👩‍💻",
                                          std::string(200, 'n')};
  for (const std::string& name : names) {
    ASSERT_TRUE(store().CreateStudy(ExampleSpec(name)).ok()) << name;
    EXPECT_EQ(store().FindStudy(name).value()->spec.name, name);
  }
}

TEST_P(StoreContract, RefusesNamesThatAreEmptyTooLongOrNotPrintable) {
  using std::string_literals::operator""s;
  const std::vector<std::string> names = {"",
                                          std::string(201, 'n'),
                                          "a\nb",
                                          "a\0b"s,
                                          "\x1b[31mred",
                                          "del\x7f",
                                          "c1\xc2\x85",
                                          "\xff",
                                          "half \xf0\x9f\x9a",
                                          "rtl \xe2\x80\xae",
                                          "overlong \xc0\xaf"};
  for (const std::string& name : names) {
    const Result<Study> refused = store().CreateStudy(ExampleSpec(name));
    ASSERT_FALSE(refused.ok()) << testing::PrintToString(name);
    EXPECT_THAT(ErrorOf(refused), HasSubstr("name"));
  }
  EXPECT_TRUE(store().ListStudies()->empty());
}

TEST_P(StoreContract, RefusesASpecThatJsonCannotHold) {
  StudySpec broken_text = ExampleSpec("a");
  broken_text.model_dir = "/models/\xff";
  const Result<Study> text = store().CreateStudy(broken_text);
  ASSERT_FALSE(text.ok());
  EXPECT_THAT(ErrorOf(text), HasSubstr("model_dir"));
  StudySpec broken_number = ExampleSpec("b");
  broken_number.lowest.lazy = std::numeric_limits<double>::quiet_NaN();
  const Result<Study> number = store().CreateStudy(broken_number);
  ASSERT_FALSE(number.ok());
  EXPECT_THAT(ErrorOf(number), HasSubstr("lowest.lazy"));
}

TEST_P(StoreContract, ListsStudiesOldestFirst) {
  EXPECT_TRUE(store().ListStudies()->empty());
  for (const char* name : {"zebra", "ant", "mole"}) NewStudy(name);
  const std::vector<Study> studies = store().ListStudies().value();
  std::vector<std::string> names;
  for (const Study& study : studies) names.push_back(study.spec.name);
  EXPECT_THAT(names, testing::ElementsAre("zebra", "ant", "mole"));
}

TEST_P(StoreContract, KeepsStateOutcomeAndMeasureOfEachStudy) {
  const int64_t first = NewStudy("first");
  const int64_t second = NewStudy("second");
  ASSERT_TRUE(store().SetStudyState(first, StudyState::kDone).ok());
  ASSERT_TRUE(store().SetStudyOutcome(first, R"({"recommended":null})").ok());
  ASSERT_TRUE(store().SetStudyMeasure(second, R"({"table_path":"t"})").ok());
  ASSERT_TRUE(store().SetStudyCalibration(second, R"({"probes":9})").ok());
  ASSERT_TRUE(store().SetStudyCalibration(second, R"({"probes":8})").ok()) << "and the first stands";
  ASSERT_TRUE(store().SetStudyState(second, StudyState::kInterrupted).ok());
  const std::vector<Study> studies = store().ListStudies().value();
  EXPECT_EQ(studies[0].state, StudyState::kDone);
  EXPECT_EQ(studies[0].outcome_json, R"({"recommended":null})");
  EXPECT_EQ(studies[0].measure_json, "");
  EXPECT_EQ(studies[1].state, StudyState::kInterrupted);
  EXPECT_EQ(studies[1].outcome_json, "");
  EXPECT_EQ(studies[1].measure_json, R"({"table_path":"t"})");
  EXPECT_EQ(studies[0].calibration_json, "");
  EXPECT_EQ(studies[1].calibration_json, R"({"probes":9})");
  ASSERT_TRUE(store().SetStudyState(first, StudyState::kRunning).ok());  // resumed
  EXPECT_EQ(store().FindStudy("first").value()->state, StudyState::kRunning);
}

TEST_P(StoreContract, NamesAStudyThatIsNotThere) {
  NewStudy();
  for (const int64_t id : {int64_t{0}, int64_t{-1}, int64_t{2}, int64_t{1} << 40}) {
    const std::string wanted = "no study " + std::to_string(id);
    EXPECT_THAT(ErrorOf(store().SetStudyState(id, StudyState::kDone)), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().SetStudyOutcome(id, "{}")), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().SetStudyMeasure(id, "{}")), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().AddTrial(id, ExamplePlan(0))), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().ListTrials(id)), HasSubstr(wanted));
  }
}

TEST_P(StoreContract, NamesATrialThatIsNotThere) {
  NewTrialOf(NewStudy(), 0);
  for (const int64_t id : {int64_t{0}, int64_t{-1}, int64_t{2}, int64_t{1} << 40}) {
    const std::string wanted = "no trial " + std::to_string(id);
    EXPECT_THAT(ErrorOf(store().StartAttempt(id, "")), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().EndAttempt(id, 1, kCrash)), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().AddAnswers(id, {})), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().FinishTrial(id, TrialState::kFailed, kCrash, {})),
                HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().GetTrial(id)), HasSubstr(wanted));
    EXPECT_THAT(ErrorOf(store().ListAnswers(id)), HasSubstr(wanted));
  }
}

// ---- trials ------------------------------------------------------------------------------------

TEST_P(StoreContract, GivesBackTheTrialItAdded) {
  const int64_t study = NewStudy();
  const Trial added = NewTrialOf(study, 4);
  EXPECT_EQ(added.study_id, study);
  EXPECT_EQ(added.state, TrialState::kWaiting);
  EXPECT_EQ(added.verdict, Verdict{});
  EXPECT_TRUE(added.attempts.empty());
  EXPECT_FALSE(added.created_utc.empty());
  EXPECT_EQ(added.finished_utc, "");
  Trial expected = added;
  expected.plan = ExamplePlan(4);
  EXPECT_EQ(ToJson(store().GetTrial(added.id).value()), ToJson(expected));
}

TEST_P(StoreContract, NumbersTrialsFromZeroWithinTheirStudy) {
  const int64_t a = NewStudy("a");
  const int64_t b = NewStudy("b");
  EXPECT_EQ(NewTrialOf(a, 0).number, 0);
  EXPECT_EQ(NewTrialOf(b, 0).number, 0);
  EXPECT_EQ(NewTrialOf(b, 1).number, 1);
  EXPECT_EQ(NewTrialOf(a, 1).number, 1);
  EXPECT_EQ(NewTrialOf(a, 2).number, 2);
  const std::vector<Trial> trials = store().ListTrials(a).value();
  std::vector<std::string> digests;
  for (const Trial& trial : trials) {
    EXPECT_EQ(trial.study_id, a);
    digests.push_back(trial.plan.plan_digest);
  }
  EXPECT_THAT(digests, testing::ElementsAre(ExamplePlan(0).plan_digest, ExamplePlan(1).plan_digest,
                                            ExamplePlan(2).plan_digest));
  EXPECT_EQ(store().ListTrials(b)->size(), 2U);
}

TEST_P(StoreContract, RefusesASecondTrialOfOneKindAndPlanUnlessTheFirstFailed) {
  const int64_t study = NewStudy();
  const auto again = [&] { return store().AddTrial(study, ExamplePlan(0)); };
  const Trial trial = NewTrialOf(study, 0);
  ASSERT_FALSE(again().ok()) << "waiting";
  EXPECT_THAT(ErrorOf(again()), HasSubstr("trial 0 of study \"study\" is waiting"));
  ASSERT_TRUE(store().StartAttempt(trial.id, "log").ok());
  EXPECT_THAT(ErrorOf(again()), HasSubstr("running"));
  ASSERT_TRUE(store().FinishTrial(trial.id, TrialState::kFailed, kCrash, {}).ok());

  const Result<Trial> second = again();
  ASSERT_TRUE(second.ok()) << second.error().message;
  EXPECT_EQ(second->number, 1);
  ASSERT_TRUE(store().StartAttempt(second->id, "log").ok());
  ASSERT_TRUE(store().FinishTrial(second->id, TrialState::kComplete, {}, {}).ok());
  EXPECT_THAT(ErrorOf(again()), HasSubstr("trial 1 of study \"study\" is complete"));
}

TEST_P(StoreContract, TriesAnInfeasiblePlanOnlyOnce) {
  const int64_t study = NewStudy();
  const Trial trial = RunningTrial(study, 0);
  const Verdict verdict = ExampleVerdict(1);
  ASSERT_TRUE(store().FinishTrial(trial.id, TrialState::kInfeasible, verdict, {}).ok());
  EXPECT_THAT(ErrorOf(store().AddTrial(study, ExamplePlan(0))), HasSubstr("infeasible"));
}

TEST_P(StoreContract, KeepsPlansOfOtherKindsAndStudiesApart) {
  const int64_t a = NewStudy("a");
  const int64_t b = NewStudy("b");
  NewTrial plan = ExamplePlan(0);
  ASSERT_TRUE(store().AddTrial(a, plan).ok());
  EXPECT_TRUE(store().AddTrial(b, plan).ok());
  plan.kind = TrialKind::kBaseline16Bit;
  EXPECT_TRUE(store().AddTrial(a, plan).ok());
  EXPECT_FALSE(store().AddTrial(a, plan).ok());
}

TEST_P(StoreContract, RefusesATrialWithoutNumbers) {
  const int64_t study = NewStudy();
  NewTrial no_floor = ExamplePlan(0);
  no_floor.floors.lazy = std::numeric_limits<double>::infinity();
  EXPECT_THAT(ErrorOf(store().AddTrial(study, no_floor)), HasSubstr("floors.lazy"));
  NewTrial negative = ExamplePlan(0);
  negative.predicted_bytes = -1;
  EXPECT_THAT(ErrorOf(store().AddTrial(study, negative)), HasSubstr("negative"));
  EXPECT_TRUE(store().ListTrials(study)->empty());
}

// ---- attempts ----------------------------------------------------------------------------------

TEST_P(StoreContract, CountsAttemptsFromOneAndRunsTheTrial) {
  const Trial trial = NewTrialOf(NewStudy(), 0);
  EXPECT_EQ(store().StartAttempt(trial.id, "logs/0.1").value(), 1);
  const Trial running = store().GetTrial(trial.id).value();
  EXPECT_EQ(running.state, TrialState::kRunning);
  ASSERT_EQ(running.attempts.size(), 1U);
  EXPECT_EQ(running.attempts[0].number, 1);
  EXPECT_EQ(running.attempts[0].log_path, "logs/0.1");
  EXPECT_GT(running.attempts[0].started_utc, trial.created_utc);
  EXPECT_EQ(running.attempts[0].ended_utc, "");
  EXPECT_EQ(running.attempts[0].verdict, Verdict{});
}

TEST_P(StoreContract, EndsAnAttemptAndKeepsTheTrialRunning) {
  const Trial trial = RunningTrial(NewStudy(), 0);
  ASSERT_TRUE(store().EndAttempt(trial.id, 1, kCrash).ok());
  const Trial ended = store().GetTrial(trial.id).value();
  EXPECT_EQ(ended.state, TrialState::kRunning);
  EXPECT_EQ(ended.verdict, Verdict{});
  EXPECT_EQ(ended.attempts.at(0).verdict, kCrash);
  EXPECT_GT(ended.attempts.at(0).ended_utc, ended.attempts.at(0).started_utc);
  EXPECT_EQ(store().StartAttempt(trial.id, "logs/0.2").value(), 2);
  EXPECT_EQ(store().GetTrial(trial.id)->attempts.at(0).verdict, kCrash);
}

TEST_P(StoreContract, EndsTheAttemptOfADeadControllerAsInterruptedWhenTheNextOneStarts) {
  const Trial trial = RunningTrial(NewStudy(), 0);
  ASSERT_TRUE(store().AddAnswers(trial.id, ExampleAnswers(0, 0, 3)).ok());
  EXPECT_EQ(store().StartAttempt(trial.id, "logs/0.2").value(), 2);
  const Trial recovered = store().GetTrial(trial.id).value();
  EXPECT_EQ(recovered.state, TrialState::kRunning);
  ASSERT_EQ(recovered.attempts.size(), 2U);
  EXPECT_EQ(recovered.attempts[0].verdict.reason, Reason::kInterrupted);
  EXPECT_EQ(recovered.attempts[0].ended_utc, recovered.attempts[1].started_utc);
  EXPECT_EQ(recovered.attempts[1].ended_utc, "");
  EXPECT_EQ(store().ListAnswers(trial.id)->size(), 3U);
}

TEST_P(StoreContract, RefusesToEndAnAttemptTwiceOrOneThatIsNotThere) {
  const Trial trial = RunningTrial(NewStudy(), 0);
  EXPECT_THAT(ErrorOf(store().EndAttempt(trial.id, 0, kCrash)), HasSubstr("no attempt 0"));
  EXPECT_THAT(ErrorOf(store().EndAttempt(trial.id, 2, kCrash)), HasSubstr("no attempt 2"));
  ASSERT_TRUE(store().EndAttempt(trial.id, 1, kCrash).ok());
  EXPECT_THAT(ErrorOf(store().EndAttempt(trial.id, 1, {})), HasSubstr("already ended"));
  ASSERT_TRUE(store().StartAttempt(trial.id, "").ok());
  EXPECT_THAT(ErrorOf(store().EndAttempt(trial.id, 1, {})), HasSubstr("already ended"));
  EXPECT_EQ(store().GetTrial(trial.id)->attempts.at(0).verdict, kCrash);
}

TEST_P(StoreContract, RefusesToEndTheAttemptOfAWaitingTrial) {
  const Trial trial = NewTrialOf(NewStudy(), 0);
  EXPECT_THAT(ErrorOf(store().EndAttempt(trial.id, 1, kCrash)), HasSubstr("no attempt 1"));
}

}  // namespace
}  // namespace hproc::controller
