#include "controller/operating_point.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controller/study_json.h"
#include "tests/controller/fake_study.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

// The point that a whole fake study recommends, and all that it is made from.
class OperatingPointTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    json model = kSloping;
    model["garbage_below"] = {{"strict", 0.9}};
    fake_ = std::make_unique<FakeStudy>(FakeModel{.questions = 60, .settings = model});
    fake_->spec.eval.tasks_sha256 = fake_->questions().task.tasks().sha256;
    WholeStudy whole(*fake_);
    recommended_ = whole.Run().outcome.done.recommended.value();
    study_ = whole.Stored();
    trials_ = whole.Trials();
    answers_ = *whole.store->ListAnswers(Recommended().id);
  }
  static void TearDownTestSuite() { fake_.reset(); }

  static const Trial& Recommended() { return trials_[static_cast<size_t>(recommended_)]; }
  static Result<OperatingPoint> Make(const Trial& trial,
                                     const std::vector<Answer>& answers = answers_) {
    return MakeOperatingPoint(study_, trials_, trial, answers, fake_->questions().order,
                              "2026-01-02T03:04:05Z");
  }
  static std::string File() { return OperatingPointToJson(*Make(Recommended())); }
  // What is said of the file with `change` done to it.
  static std::string ErrorWith(const std::function<void(nlohmann::ordered_json&)>& change) {
    auto file = nlohmann::ordered_json::parse(File());
    change(file);
    return ErrorOf(OperatingPointFromJson(file.dump()));
  }

  static std::unique_ptr<FakeStudy> fake_;
  static int recommended_;
  static Study study_;
  static std::vector<Trial> trials_;
  static std::vector<Answer> answers_;
};

std::unique_ptr<FakeStudy> OperatingPointTest::fake_;
int OperatingPointTest::recommended_ = -1;
Study OperatingPointTest::study_;
std::vector<Trial> OperatingPointTest::trials_;
std::vector<Answer> OperatingPointTest::answers_;

// ---- made ----

TEST_F(OperatingPointTest, HoldsThePointItsPlanAndAllTheEvidence) {
  const OperatingPoint point = *Make(Recommended());
  EXPECT_EQ(point.study, "fake");
  EXPECT_EQ(point.created_utc, "2026-01-02T03:04:05Z");
  EXPECT_EQ(point.floors, Recommended().plan.floors);
  EXPECT_EQ(quant::PlanFromJson(point.plan_json)->Digest(), point.plan_digest);
  EXPECT_EQ(point.spec, study_.spec);
  EXPECT_EQ(point.memory.live_bytes, Recommended().measured.memory->live_bytes);
  EXPECT_EQ(point.accuracy, Recommended().measured.accuracy);
  EXPECT_THAT(point.throughput, SizeIs(15));
  EXPECT_EQ(point.bound, "out_of_memory");
  EXPECT_EQ(point.why, "higher floors do not fit the memory cap");
}

TEST_F(OperatingPointTest, KeepsTheOutcomeOfEveryQuestionInTheOrderOfTheStudy) {
  const OperatingPoint point = *Make(Recommended());
  const std::vector<int>& order = fake_->questions().order;
  ASSERT_THAT(point.outcomes, SizeIs(order.size()));
  for (const Answer& answer : answers_) {
    if (answer.stage == "probe") continue;
    const auto at = std::ranges::find(order, answer.question) - order.begin();
    EXPECT_EQ(point.outcomes[static_cast<size_t>(at)], answer.strict_correct ? '1' : '0');
  }
  EXPECT_EQ(std::ranges::count(point.outcomes, '1'), point.accuracy.strict_correct);
}

TEST_F(OperatingPointTest, NamesTheNearestTrialsThatDidNotFitOrTalkedGarbage) {
  const OperatingPoint point = *Make(Recommended());
  const auto distance = [&](const quant::Floors& floors) {
    return std::abs(floors.strict - point.floors.strict) +
           std::abs(floors.lazy - point.floors.lazy);
  };
  size_t infeasible = 0;
  for (const Trial& trial : trials_) infeasible += trial.state == TrialState::kInfeasible ? 1 : 0;
  ASSERT_GE(infeasible, 3U);
  EXPECT_THAT(point.neighbours, SizeIs(std::min<size_t>(infeasible, 8)));
  for (size_t i = 1; i < point.neighbours.size(); ++i) {
    EXPECT_LE(distance(point.neighbours[i - 1].floors), distance(point.neighbours[i].floors));
  }
  const auto has = [&](Reason reason) {
    return std::ranges::any_of(
        point.neighbours, [&](const BoundaryNeighbour& n) { return n.verdict.reason == reason; });
  };
  EXPECT_TRUE(has(Reason::kOutOfMemory));
  EXPECT_TRUE(has(Reason::kGarbageOutput));
}

TEST_F(OperatingPointTest, IsRefusedToATrialThatWasNotAskedEverything) {
  const std::string refusal =
      " of study \"fake\" cannot be exported: it was not evaluated on all questions";
  int refused = 0;
  for (const Trial& trial : trials_) {
    if (trial.state == TrialState::kComplete && trial.measured.accuracy.all_questions) continue;
    EXPECT_EQ(ErrorOf(Make(trial)), "trial " + std::to_string(trial.number) + refusal);
    ++refused;
  }
  EXPECT_GE(refused, 3);
  Trial trial = Recommended();
  trial.measured.accuracy.all_questions = false;
  EXPECT_THAT(ErrorOf(Make(trial)), HasSubstr(refusal));
}

TEST_F(OperatingPointTest, IsRefusedWhereAnAnswerIsMissing) {
  std::vector<Answer> answers = answers_;
  const int missing =
      answers.back().question;  // stages sort as text: the last are the smoke test's
  answers.pop_back();
  EXPECT_THAT(ErrorOf(Make(Recommended(), answers)),
              HasSubstr("the answer to question " + std::to_string(missing) + " is missing"));
}

TEST_F(OperatingPointTest, HoldsWhatATrialHadAndNothingOfHowTheStudyWasLaunched) {
  Study study = study_;
  study.spec.launch = {.launcher = "slurm", .slurm_args = {"--account=someones"}, .parallel = 8};
  OperatingPoint point = *MakeOperatingPoint(study, trials_, Recommended(), answers_, fake_->questions().order, "");
  EXPECT_EQ(point.spec, study_.spec);
  EXPECT_THAT(OperatingPointToJson(point), AllOf(Not(HasSubstr("someones")), Not(HasSubstr("slurm"))));
  EXPECT_FALSE(json::parse(OperatingPointToJson(point))["spec"].contains("launch"));
  EXPECT_EQ(ErrorWith([](auto& f) { f["spec"]["launch"] = json::object(); }), "spec.launch: not known here");

  // So that the point can be run again alone.
  study.spec.launch = {.launcher = "local", .slurm_args = {}, .parallel = 2};
  study.spec.deployment.device = "cuda:2,3";
  point = *MakeOperatingPoint(study, trials_, Recommended(), answers_, fake_->questions().order, "");
  EXPECT_EQ(point.spec.deployment.device, "cuda:2");
}

// ---- the file ----

TEST_F(OperatingPointTest, ComesBackFromItsFileWhole) {
  const OperatingPoint point = *Make(Recommended());
  const Result<OperatingPoint> read = OperatingPointFromJson(OperatingPointToJson(point));
  ASSERT_TRUE(read.ok()) << ErrorOf(read);
  EXPECT_EQ(ToJson(*read), ToJson(point));
  EXPECT_EQ(OperatingPointToJson(*read), OperatingPointToJson(point));
}

TEST_F(OperatingPointTest, SaysFirstWhatPeopleLookForAndDoesNotReadItBack) {
  const json file = json::parse(File());
  const json& accuracy = file["summary"]["accuracy"];
  const AccuracyTally& tally = Recommended().measured.accuracy;
  EXPECT_EQ(accuracy["correct"], tally.strict_correct);
  EXPECT_EQ(accuracy["total"], 60);
  EXPECT_DOUBLE_EQ(accuracy["rate"], tally.strict_correct / 60.0);
  EXPECT_LT(accuracy["low"], accuracy["rate"]);
  EXPECT_GT(accuracy["high"], accuracy["rate"]);
  EXPECT_EQ(file["summary"]["headroom_bytes"],
            1'000'000 - Recommended().measured.memory->live_bytes);
  EXPECT_THAT(file["summary"]["throughput"], SizeIs(3));
  EXPECT_TRUE(file["plan"].is_object());
  EXPECT_EQ(ErrorWith([](auto& f) { f["summary"] = "another"; }), "no error");
  EXPECT_EQ(ErrorWith([](auto& f) { f.erase("summary"); }), "no error");
}

TEST_F(OperatingPointTest, RefusesAFileThatIsCutOffAnywhere) {
  const std::string file = File();
  for (size_t size = 0; size + 2 < file.size(); size += 1 + file.size() / 200) {
    EXPECT_FALSE(OperatingPointFromJson(file.substr(0, size)).ok()) << size;
  }
}

TEST_F(OperatingPointTest, RefusesWhatIsNoOperatingPoint) {
  for (const char* text : {"", " ", "null", "[]", "{}", "7", "\"schema_version\"",
                           "{\"schema_version\":1", "\xff\xfe"}) {
    EXPECT_EQ(ErrorOf(OperatingPointFromJson(text)), "not an operating point") << text;
  }
}

TEST_F(OperatingPointTest, RefusesEveryFileWithoutOneOfItsKeys) {
  const auto file = nlohmann::ordered_json::parse(File());
  int keys = 0;
  for (const auto& [key, value] : file.items()) {
    if (key == "summary" || key == "schema_version") continue;
    EXPECT_EQ(ErrorWith([&, name = key](auto& f) { f.erase(name); }), key + ": missing");
    EXPECT_THAT(ErrorWith([&, name = key](auto& f) { f[name] = true; }),
                AllOf(HasSubstr(key), Not("no error")));
    ++keys;
  }
  EXPECT_EQ(keys, 17);
}

TEST_F(OperatingPointTest, SaysWhichValueIsWrong) {
  EXPECT_EQ(ErrorWith([](auto& f) { f["schema_version"] = 2; }),
            "schema version 2; this program reads 1");
  EXPECT_EQ(ErrorWith([](auto& f) { f["spec"]["deployment"]["context"] = "many"; }),
            "spec.deployment.context: expected a whole number, found a string");
  EXPECT_EQ(ErrorWith([](auto& f) { f["spec"]["deployment"]["context"] = 1e300; }),
            "spec.deployment.context: expected a whole number, found 1e+300");
  EXPECT_EQ(ErrorWith([](auto& f) { f["neighbours"][0]["verdict"]["reason"] = "bad luck"; }),
            "neighbours[0].verdict.reason: \"bad luck\" is no such name");
  EXPECT_EQ(ErrorWith([](auto& f) { f["extra"] = 1; }), "extra: not known here");
  EXPECT_EQ(ErrorWith([](auto& f) { f["plan_digest"] = std::string(64, '0'); }),
            "plan_digest: not the digest of the plan");
  EXPECT_EQ(ErrorWith([](auto& f) { f["plan"]["tensors"][1]["bytes"] = 17; }),
            "plan: its digest does not match");
  EXPECT_THAT(ErrorWith([](auto& f) { f["plan"]["tensors"][1]["rows"] = -1; }), HasSubstr("shape"));
  EXPECT_EQ(ErrorWith([](auto& f) { f["outcomes"] = "1012"; }),
            "outcomes: neither 0 nor 1, but '2'");
}

TEST_F(OperatingPointTest, NamesWhatIsWrongWithoutLettingItActOnATerminal) {
  const std::string hostile = "\x1b[2J\nall is well" + std::string(10'000, 'x') + "\u202e";
  for (const std::string& error :
       {ErrorWith([&](auto& f) { f[hostile] = 1; }),
        ErrorWith([&](auto& f) { f["spec"][hostile] = 1; }),
        ErrorWith([&](auto& f) { f["schema_version"] = hostile; }),
        ErrorWith([&](auto& f) { f["outcomes"] = hostile; }),
        ErrorWith([&](auto& f) { f["neighbours"][0]["verdict"]["reason"] = hostile; })}) {
    EXPECT_NE(error, "no error");
    EXPECT_LT(error.size(), 250U) << error;
    EXPECT_TRUE(std::ranges::none_of(error, [](char c) { return c >= 0 && c < ' '; })) << error;
    EXPECT_THAT(error, Not(HasSubstr("\u202e")));
  }
}

// A second "plan" that another reader would take, say.
TEST_F(OperatingPointTest, RefusesAKeyThatOccursTwice) {
  std::string file = File();
  file.insert(1, R"("bound": "none",)");
  EXPECT_EQ(ErrorOf(OperatingPointFromJson(file)), "bound: occurs twice");
  file = File();
  const std::string spec = "\"spec\": {";
  file.insert(file.find(spec) + spec.size(), R"("mode": "v2",)");
  EXPECT_THAT(ErrorOf(OperatingPointFromJson(file)), HasSubstr("occurs twice"));
}

TEST_F(OperatingPointTest, RefusesNestingWithoutEndWhereverItIs) {
  // Deep enough to run out of stack where one level takes a hundred bytes of it.
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  for (const std::string key :
       {"schema_version", "plan", "summary", "spec", "neighbours", "unknown"}) {
    std::string file = File();
    const std::string quoted = "\"" + key + "\": ";
    const size_t at = file.find(quoted);
    if (at == std::string::npos) {
      file.insert(1, quoted + deep + ",");
    } else {
      // What stood there becomes the value of another key.
      file.insert(at, quoted + deep + ", \"other\": 0, \"x");
      file.erase(file.find("\"x\"", at) + 2, 1);
    }
    EXPECT_EQ(ErrorOf(OperatingPointFromJson(file)), "not an operating point: nested too deep")
        << key;
  }
}

}  // namespace
}  // namespace hproc::controller
