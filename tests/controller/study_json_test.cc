#include "controller/study_json.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

using testing::HasSubstr;

// `text` with the first `from` replaced; fails where it is not there.
std::string With(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(StudyJson, WritesTheNamesOfTheFields) {
  const Verdict verdict = {.reason = Reason::kOutOfMemory,
                           .phase = "load",
                           .device = "cuda:1",
                           .short_bytes = 432'013'312,
                           .message = "a \"b\"\n"};
  EXPECT_EQ(ToJson(verdict),
            R"({"reason":"out_of_memory","phase":"load","device":"cuda:1","short_bytes":432013312,)"
            R"("message":"a \"b\"\n"})");
  const AccuracyTally tally = {.total = 20,
                               .strict_correct = 18,
                               .flexible_correct = 19,
                               .invalid = 1,
                               .truncated = 0,
                               .strict_by_seed = {18},
                               .strict_squares = 18,
                               .all_questions = false};
  EXPECT_EQ(ToJson(tally), R"({"total":20,"strict_correct":18,"flexible_correct":19,"invalid":1,)"
                           R"("truncated":0,"strict_by_seed":[18],"strict_squares":18,"all_questions":false})");
  EXPECT_EQ(ToJson(TrialMeasurements{}),
            R"({"load":null,"memory":null,"ranks":[],"predicted":[],"accuracy":{"total":0,"strict_correct":0,)"
            R"("flexible_correct":0,"invalid":0,"truncated":0,"strict_by_seed":[],"strict_squares":0,"all_questions":false},)"
            R"("throughput":[],"phase_seconds":[]})");
}

TEST(StudyJson, ReadsBackWhatItWrote) {
  const StudySpec spec = ExampleSpec("Größe \"1\" \\ 🚀");
  EXPECT_EQ(StudySpecFromJson(ToJson(spec)).value(), spec);
  EXPECT_EQ(VerdictFromJson(ToJson(ExampleVerdict(1))).value(), ExampleVerdict(1));
  EXPECT_EQ(AnswerFromJson(ToJson(ExampleAnswer(1, 4))).value(), ExampleAnswer(1, 4));
  const AccuracyTally tally = ExampleMeasurements(1).accuracy;
  EXPECT_EQ(AccuracyTallyFromJson(ToJson(tally)).value(), tally);

  const std::unique_ptr<Store> store = MakeMemoryStore(TickingClock());
  const Study study = store->CreateStudy(spec).value();
  EXPECT_EQ(ToJson(StudyFromJson(ToJson(study)).value()), ToJson(study));
  const Trial trial = AddFinishedTrial(*store, study.id, 1).value();
  EXPECT_EQ(ToJson(TrialFromJson(ToJson(trial)).value()), ToJson(trial));
  EXPECT_EQ(ToJson(AttemptFromJson(ToJson(trial.attempts[0])).value()), ToJson(trial.attempts[0]));
  EXPECT_EQ(WhyNotWhole([&] {
              Trial read = TrialFromJson(ToJson(trial)).value();
              read.number = 1;  // the examples follow from the number
              return read;
            }()),
            "");
}

TEST(StudyJson, WritesWhatIsNotFiniteAsNullAndReadsItAsNan) {
  TrialMeasurements measured = ExampleMeasurements(0);
  measured.phase_seconds = {{"load", std::numeric_limits<double>::infinity()},
                            {"cache", std::nan("")}};
  const std::string json = ToJson(measured);
  EXPECT_THAT(json,
              HasSubstr(R"([{"phase":"load","seconds":null},{"phase":"cache","seconds":null}])"));
  const TrialMeasurements read = TrialMeasurementsFromJson(json).value();
  EXPECT_TRUE(std::isnan(read.phase_seconds[0].second));
  EXPECT_TRUE(std::isnan(read.phase_seconds[1].second));
}

TEST(StudyJson, WritesBrokenUtf8AsReplacementCharacters) {
  Verdict verdict = ExampleVerdict(1);
  verdict.message = std::string("half \xf0\x9f\x9a, NUL \0 end", 20);
  const std::string json = ToJson(verdict);
  EXPECT_THAT(json, HasSubstr("half \xef\xbf\xbd, NUL \\u0000 end"));
  EXPECT_TRUE(VerdictFromJson(json).ok());
}

TEST(StudyJson, NamesTheKeyThatIsMissingUnknownOrTwice) {
  const std::string spec = ToJson(ExampleSpec("a"));
  EXPECT_EQ(ErrorOf(StudySpecFromJson(With(spec, R"("batch":8,)", ""))),
            "deployment.batch: missing");
  EXPECT_EQ(ErrorOf(StudySpecFromJson(With(spec, R"("batch":8)", R"("batch":8,"color":1)"))),
            "deployment.color: not known here");
  EXPECT_THAT(ErrorOf(StudySpecFromJson(With(spec, R"("batch":8)", R"("batch":8,"batch":9)"))),
              HasSubstr("batch: occurs twice"));
}

TEST(StudyJson, NamesTheValueThatHasTheWrongTypeOrRange) {
  const std::string spec = ToJson(ExampleSpec("a"));
  const auto error = [&](const std::string& from, const std::string& to) {
    return ErrorOf(StudySpecFromJson(With(spec, from, to)));
  };
  EXPECT_EQ(error(R"("batch":8)", R"("batch":"8")"),
            "deployment.batch: expected a whole number, found a string");
  EXPECT_EQ(error(R"("batch":8)", R"("batch":8.5)"),
            "deployment.batch: expected a whole number, found 8.5");
  EXPECT_EQ(error(R"("batch":8)", R"("batch":2147483648)"),
            "deployment.batch: 2147483648 is out of range");
  EXPECT_EQ(error(R"("order_seed":18446744073709551615)", R"("order_seed":-1)"),
            "eval.order_seed: -1 is out of range");
  EXPECT_EQ(error(R"("mode":"v2a")", R"("mode":null)"), "mode: expected a string, found null");
  EXPECT_EQ(error(R"("min_accuracy":0.25)", R"("min_accuracy":[0.25])"),
            "min_accuracy: expected a number, found array");
  EXPECT_EQ(ErrorOf(VerdictFromJson(With(ToJson(Verdict{}), "none", "boredom"))),
            "reason: \"boredom\" is no such name");
  EXPECT_EQ(ErrorOf(AccuracyTallyFromJson(With(ToJson(AccuracyTally{}), "false", "0"))),
            "all_questions: expected true or false, found 0");
}

TEST(StudyJson, NamesThePlaceInAList) {
  const std::string json = ToJson(ExampleMeasurements(0));
  EXPECT_EQ(ErrorOf(TrialMeasurementsFromJson(
                With(json, R"("mean_cosine":0.97)", R"("mean_cosine":"")"))),
            "load.families[0].mean_cosine: expected a number, found a string");
  EXPECT_EQ(
      ErrorOf(TrialMeasurementsFromJson(With(json, R"("kind":"prefill")", R"("kind":"refill")"))),
      "throughput[0].kind: \"refill\" is no such name");
}

TEST(StudyJson, RefusesWhatIsNoJsonOrNoObject) {
  EXPECT_THAT(ErrorOf(VerdictFromJson("")), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(VerdictFromJson("{\"reason\": ")), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(VerdictFromJson(ToJson(Verdict{}) + "x")), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(VerdictFromJson("{\"reason\": \"\xff\"}")), HasSubstr("not JSON"));
  EXPECT_EQ(ErrorOf(VerdictFromJson("[]")), "expected an object, found array");
  EXPECT_EQ(ErrorOf(VerdictFromJson("null")), "expected an object, found null");
}

}  // namespace
}  // namespace hproc::controller
