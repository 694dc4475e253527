#include "web/views.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "tests/controller/fake_study.h"

namespace hproc::web {
namespace {

using controller::Answer;
using controller::FakeStudy;
using controller::FloorPair;
using controller::PlanSpace;
using controller::Reason;
using controller::Study;
using controller::Trial;
using controller::TrialKind;
using controller::TrialState;
using nlohmann::json;
using testing::ElementsAre;
using testing::SizeIs;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Strict: what is no JSON fails the test, invalid UTF-8 included.
json Parse(const std::string& view) {
  const json parsed = json::parse(view, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(parsed.is_discarded()) << view;
  return parsed;
}

// One of each state that a store can hold, by controller::ExampleState, and one that waits.
struct Examples {
  Examples() {
    study = *store->CreateStudy(controller::ExampleSpec("demo"));
    for (int n = 0; n < 3; ++n) EXPECT_TRUE(AddFinishedTrial(*store, study.id, n).ok());
    EXPECT_TRUE(store->AddTrial(study.id, controller::ExamplePlan(3)).ok());
    trials = *store->ListTrials(study.id);
  }
  std::unique_ptr<controller::Store> store =
      controller::MakeMemoryStore(controller::TickingClock());
  Study study;
  std::vector<Trial> trials;
};

// ---- rows ----

TEST(TrialsView, ShowsEachTrialInARowWithoutPlanAndAnswers) {
  const Examples examples;
  const json rows = Parse(TrialsView(examples.trials));
  ASSERT_THAT(rows, SizeIs(4));
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rows[i]["trial"], i);
    EXPECT_EQ(rows[i]["strict"], examples.trials[i].plan.floors.strict);
    EXPECT_EQ(rows[i]["plan_digest"], examples.trials[i].plan.plan_digest);
    EXPECT_FALSE(rows[i].contains("plan"));
    EXPECT_FALSE(rows[i].contains("answers"));
  }
  EXPECT_EQ(rows[0]["state"], "complete");
  EXPECT_EQ(rows[0]["measured_bytes"], 5'000'000'000);
  EXPECT_EQ(rows[0]["peak_bytes"], 6'000'000'000);
  EXPECT_EQ(rows[0]["throughput"]["prefill"]["repetitions"], 3);
  EXPECT_EQ(rows[1]["state"], "infeasible");
  EXPECT_EQ(rows[1]["verdict"], (json{{"reason", "out_of_memory"},
                                      {"phase", "load"},
                                      {"device", "cuda:0"},
                                      {"short_bytes", 432'013'313},
                                      {"message", "model.layers.7.mlp.down_proj did not fit"}}));
  EXPECT_EQ(rows[2]["state"], "failed");
  EXPECT_EQ(rows[2]["attempts"], 1);
}

TEST(TrialsCsv, QuotesAndLeavesNoFormulaToASpreadsheet) {
  Examples examples;
  examples.trials.resize(2);
  examples.trials[0].verdict.message = "=HYPERLINK(\"http://evil.example\")";
  examples.trials[1].verdict.message = "two, with a \"quote\"\nand a line";
  const std::string csv = TrialsCsv(examples.trials);
  EXPECT_THAT(csv, testing::HasSubstr(",\"'=HYPERLINK(\"\"http://evil.example\"\")\","));
  EXPECT_THAT(csv, testing::HasSubstr(",\"two, with a \"\"quote\"\"\nand a line\","));
  const std::string head = csv.substr(0, csv.find("\r\n"));
  const std::string first = csv.substr(head.size() + 2, csv.find("\r\n", head.size() + 2) - head.size() - 2);
  EXPECT_EQ(std::count(first.begin(), first.end(), ','), std::count(head.begin(), head.end(), ',')) << "a cell for each head";
}

TEST(TrialsView, ShowsWhatWasNotMeasuredAsNull) {
  const Examples examples;
  const json row = Parse(TrialsView(examples.trials))[3];
  EXPECT_EQ(row["state"], "waiting");
  for (const char* key : {"measured_bytes", "peak_bytes", "accuracy"})
    EXPECT_TRUE(row[key].is_null()) << key;
  EXPECT_EQ(row["throughput"], json::object());
  EXPECT_EQ(row["finished_utc"], "");
}

TEST(TrialsView, NeverShowsARateThatStoppedEarlyAsAccuracy) {
  Examples examples;
  Trial& trial = examples.trials[0];
  trial.measured.accuracy = {.total = 100,
                             .strict_correct = 79,
                             .flexible_correct = 80,
                             .invalid = 1,
                             .truncated = 3,
                             .all_questions = true};
  const json whole = Parse(TrialsView(examples.trials))[0]["accuracy"];
  EXPECT_DOUBLE_EQ(whole["rate"], 0.79);
  EXPECT_LT(whole["low"], 0.79);
  EXPECT_GT(whole["high"], 0.79);
  EXPECT_EQ(whole["truncated_flag"], true) << "3 of 100 are more than 2 %";

  trial.measured.accuracy.all_questions = false;
  const json early = Parse(TrialsView(examples.trials))[0]["accuracy"];
  EXPECT_EQ(early["answered"], 100);
  EXPECT_EQ(early["correct"], 79);
  EXPECT_TRUE(early["rate"].is_null());
  EXPECT_FALSE(early.contains("low"));
}

TEST(TrialsView, ShowsNoFigureThatIsNotFinite) {
  Examples examples;
  Trial& trial = examples.trials[0];
  trial.plan.bits_per_weight = kNaN;
  for (evals::ThroughputSample& sample : trial.measured.throughput) {
    if (sample.kind == evals::ThroughputKind::kPrefill) sample.seconds = kNaN;
  }
  const json row = Parse(TrialsView(examples.trials))[0];
  EXPECT_TRUE(row["bits_per_weight"].is_null());
  EXPECT_FALSE(row["throughput"].contains("prefill")) << "no repetition of it was timed";
  EXPECT_EQ(row["throughput"]["long_decode"]["repetitions"], 3);
}

// What a model says, and what tensors are called, is anybody's.
TEST(TrialsView, StaysJsonWhateverTheTextsHold) {
  Examples examples;
  const std::string hostile = "\"}],\\ </script><script>alert(1)</script> \n\x1b[2J \xE2\x80\xAE";
  Trial& trial = examples.trials[1];
  trial.verdict.message = hostile;
  EXPECT_EQ(Parse(TrialsView(examples.trials))[1]["verdict"]["message"], hostile);
  trial.verdict.message = "half a letter: \xC3";
  EXPECT_EQ(Parse(TrialsView(examples.trials))[1]["verdict"]["message"],
            "half a letter: \xEF\xBF\xBD");

  Answer answer = controller::ExampleAnswer(0, 1);
  answer.text = hostile + std::string("\0 and \xFF", 7);
  const json view = Parse(TrialView(trial, {answer}));
  EXPECT_EQ(view["answers"][0]["text"], hostile + std::string("\0 and \xEF\xBF\xBD", 9));
}

// ---- one trial ----

TEST(TrialView, ShowsTheRowAndEverythingBehindIt) {
  const Examples examples;
  const std::vector<Answer> answers = controller::ExampleAnswers(0, 5, 3);
  const json view = Parse(TrialView(examples.trials[0], answers));
  json row = Parse(TrialsView(examples.trials))[0];
  row.erase("attempts");
  for (const auto& [key, value] : row.items()) EXPECT_EQ(view[key], value) << key;
  EXPECT_EQ(view["plan"], json::parse(examples.trials[0].plan.plan_json));
  EXPECT_EQ(view["measured"]["memory"]["lines"][2], (json{{"name", "kv_cache"}, {"bytes", 77}}));
  EXPECT_EQ(view["measured"]["predicted"][1], (json{{"name", "kv_cache"}, {"bytes", 77}}));
  ASSERT_THAT(view["attempts"], SizeIs(1));
  EXPECT_EQ(view["attempts"][0]["log_path"], "log");
  ASSERT_THAT(view["answers"], SizeIs(3));
  EXPECT_EQ(view["answers"][0]["question"], 5);
}

TEST(TrialView, ShowsAPlanThatIsNoJsonAsNull) {
  Examples examples;
  examples.trials[0].plan.plan_json = "{\"tensors\":[";
  EXPECT_TRUE(Parse(TrialView(examples.trials[0], {}))["plan"].is_null());
}

// ---- studies ----

TEST(StudiesView, CountsTheTrialsOfEachStudyByState) {
  Examples examples;
  Study done = examples.study;
  done.spec.name = "done";
  done.state = controller::StudyState::kDone;
  done.outcome_json = R"({"bound":"none"})";
  const json rows = Parse(StudiesView({examples.study, done}, {examples.trials, {}}));
  ASSERT_THAT(rows, SizeIs(2));
  EXPECT_EQ(rows[0]["study"], "demo");
  EXPECT_EQ(rows[0]["state"], "running");
  EXPECT_EQ(rows[0]["memory_cap_bytes"], 7'340'032);
  EXPECT_EQ(rows[0]["trials"],
            (json{{"complete", 1}, {"failed", 1}, {"infeasible", 1}, {"waiting", 1}}));
  EXPECT_TRUE(rows[0]["outcome"].is_null()) << "not known yet";
  EXPECT_EQ(rows[1]["trials"], json::object());
  EXPECT_EQ(rows[1]["outcome"]["bound"], "none");
}

TEST(StudiesView, IsAnEmptyListWithoutStudiesAndNullForAnOutcomeThatIsNoJson) {
  EXPECT_EQ(StudiesView({}, {}), "[]");
  Examples examples;
  examples.study.outcome_json = "cut of";
  EXPECT_TRUE(Parse(StudiesView({examples.study}, {{}}))[0]["outcome"].is_null());
}

// ---- the floor plane ----

// Of a study of a fake model, baseline included.
class FrontierViewTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    json model = controller::kSloping;
    model["garbage_below"] = {{"strict", 0.9}};
    fake_ = std::make_unique<FakeStudy>(controller::FakeModel{.questions = 60, .settings = model});
    fake_->spec.baselines = {TrialKind::kBaseline16Bit};
    fake_->spec.headroom_bytes = 1000;
    controller::WholeStudy whole(*fake_);
    whole.Run();
    study_ = whole.Stored();
    trials_ = whole.Trials();
  }
  static void TearDownTestSuite() { fake_.reset(); }
  static json View() { return Parse(FrontierView(study_, fake_->space(), trials_)); }
  static FloorPair PairOf(const json& point) {
    return fake_->space().PairOf({.strict = point["strict"], .lazy = point["lazy"]});
  }

  static std::unique_ptr<FakeStudy> fake_;
  static Study study_;
  static std::vector<Trial> trials_;
};

std::unique_ptr<FakeStudy> FrontierViewTest::fake_;
Study FrontierViewTest::study_;
std::vector<Trial> FrontierViewTest::trials_;

TEST_F(FrontierViewTest, PredictsAStaircaseOfCornersThatUseTheBudgetUp) {
  const json view = View();
  EXPECT_EQ(view["budget_bytes"], 999'000);
  const PlanSpace& space = fake_->space();
  const json& corners = view["predicted_fit_frontier"];
  ASSERT_GE(corners.size(), 10U);
  for (size_t i = 0; i < corners.size(); ++i) {
    const FloorPair at = PairOf(corners[i]);
    EXPECT_EQ(corners[i]["needed_bytes"], space.NeededBytes(at));
    EXPECT_LE(space.NeededBytes(at), 999'000);
    EXPECT_GT(space.NeededBytes({at.strict + 1, at.lazy}), 999'000);
    EXPECT_GT(space.NeededBytes({at.strict, at.lazy + 1}), 999'000);
    if (i == 0) continue;
    EXPECT_GT(at.strict, PairOf(corners[i - 1]).strict);
    EXPECT_LT(at.lazy, PairOf(corners[i - 1]).lazy);
  }
  EXPECT_EQ(PairOf(view["lowest"]), space.PairOf({.strict = 0.8, .lazy = 0.5}));
  EXPECT_EQ(view["highest"]["strict"], 1);
}

TEST_F(FrontierViewTest, PutsEveryPointOnTheSideOfEachFrontierThatItsVerdictSays) {
  const json view = View();
  const auto numbers = [](const json& points) {
    std::vector<int> trials;
    for (const json& point : points) trials.push_back(point["trial"]);
    return trials;
  };
  std::vector<int> inside;
  std::vector<int> outside;
  std::vector<int> sensible;
  std::vector<int> garbage;
  for (const Trial& trial : trials_) {
    if (trial.plan.kind != TrialKind::kPoint) continue;  // baselines mark no boundary
    const bool candidate = trial.plan.purpose == "candidate";
    const bool complete = trial.state == TrialState::kComplete;
    if (complete && candidate) inside.push_back(trial.number);
    if (complete && (candidate || trial.plan.purpose == "garbage_edge"))
      sensible.push_back(trial.number);
    if (trial.verdict.reason == Reason::kOutOfMemory) outside.push_back(trial.number);
    if (trial.verdict.reason == Reason::kGarbageOutput) garbage.push_back(trial.number);
  }
  for (const std::vector<int>* side : {&inside, &outside, &sensible, &garbage})
    EXPECT_THAT(*side, testing::Not(SizeIs(0)));
  EXPECT_EQ(numbers(view["fit_frontier"]["inside"]), inside);
  EXPECT_EQ(numbers(view["fit_frontier"]["outside"]), outside);
  EXPECT_EQ(numbers(view["garbage_frontier"]["sensible"]), sensible);
  EXPECT_EQ(numbers(view["garbage_frontier"]["garbage"]), garbage);
  EXPECT_EQ(numbers(view["trials"]).size(), trials_.size()) << "and all of them on the plane";
}

TEST_F(FrontierViewTest, LetsABaselineMarkNoBoundary) {
  ASSERT_EQ(trials_.back().plan.kind, TrialKind::kBaseline16Bit);
  const json before = View();
  for (const Reason reason : {Reason::kOutOfMemory, Reason::kGarbageOutput}) {
    std::vector<Trial> trials = trials_;
    trials.back().state = TrialState::kInfeasible;
    trials.back().verdict.reason = reason;
    const json view = Parse(FrontierView(study_, fake_->space(), trials));
    for (const char* frontier : {"fit_frontier", "garbage_frontier", "pareto_frontier"}) {
      EXPECT_EQ(view[frontier], before[frontier]) << frontier;
    }
  }
}

TEST_F(FrontierViewTest, NamesTheParetoFrontierByTrialAndShowsTheOutcome) {
  const json view = View();
  const json outcome = json::parse(study_.outcome_json);
  EXPECT_EQ(view["outcome"], outcome);
  const auto frontier = view["pareto_frontier"].get<std::vector<int>>();
  EXPECT_THAT(frontier, testing::Contains(outcome["recommended"]["trial"].get<int>()));
  EXPECT_THAT(frontier, testing::Not(testing::Contains(trials_.back().number)))
      << "a baseline is no point";
  for (int number : frontier) {
    EXPECT_TRUE(trials_[static_cast<size_t>(number)].measured.accuracy.all_questions) << number;
  }
}

// ---- plan ----

TEST(PlanView, AddsUpByFamilyAndByLine) {
  const FakeStudy fake;
  const controller::PlannedPoint& point =
      fake.space().At(fake.space().PairOf({.strict = 0.985, .lazy = 0.93}));
  const json view = Parse(PlanView(point, fake.space().Ledger(point.plan)));
  EXPECT_EQ(view["strict"], 0.985);
  EXPECT_EQ(view["lazy"], 0.93);
  EXPECT_EQ(view["plan_digest"], point.digest);
  int64_t family_bytes = 0;
  for (const auto& [name, family] : view["families"].items()) {
    family_bytes += family["bytes"].get<int64_t>();
    EXPECT_DOUBLE_EQ(family["bits_per_weight"],
                     8.0 * family["bytes"].get<double>() / family["weights"].get<double>());
  }
  EXPECT_EQ(family_bytes, view["weight_bytes"]);
  int64_t ledger_bytes = 0;
  for (const json& line : view["ledger"]) ledger_bytes += line["bytes"].get<int64_t>();
  EXPECT_EQ(ledger_bytes, view["predicted_bytes"]);
  EXPECT_EQ(view["families"]["kept"]["min_cosine"], 1);
  EXPECT_GE(view["families"]["strict"]["min_cosine"], 0.985F);
  EXPECT_THAT(view["plan"]["tensors"], SizeIs(7));
}

TEST(PlanView, LeavesOutAFamilyThatTheModelDoesNotHave) {
  const FakeStudy dense({.has_lazy = false});
  const controller::PlannedPoint& point = dense.space().At({100, 100});
  const json view = Parse(PlanView(point, dense.space().Ledger(point.plan)));
  std::vector<std::string> families;
  for (const auto& [name, family] : view["families"].items()) families.push_back(name);
  EXPECT_THAT(families, ElementsAre("head", "kept", "strict"));
}

}  // namespace
}  // namespace hproc::web
