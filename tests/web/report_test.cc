#include "web/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/bytes.h"
#include "tests/controller/fake_study.h"

namespace hproc::web {
namespace {

using controller::FakeStudy;
using controller::FloorPair;
using controller::SearchDone;
using controller::Trial;
using controller::TrialKind;
using controller::TrialState;
using controller::WholeStudy;
using testing::HasSubstr;
using testing::Not;

// A whole study and its report.
struct Reported {
  explicit Reported(controller::FakeModel model, bool with_baseline = false)
      : fake(std::move(model)) {
    const FloorPair inside = fake.space().PairOf({.strict = 0.985, .lazy = 0.95});
    fake.spec.memory_cap_bytes = fake.TrueBytes(inside);
    if (with_baseline) fake.spec.baselines = {TrialKind::kBaseline16Bit, TrialKind::kBaselineInt4};
    whole.emplace(fake);
    end = whole->Run();
    study = whole->Stored();
    trials = whole->Trials();
  }

  Document Make(bool finished = true) {
    Result<Document> document = MakeReport(*whole->store, {.study = study,
                                                           .trials = trials,
                                                           .space = fake.space(),
                                                           .outcome = end.outcome,
                                                           .finished = finished,
                                                           .plane_text = "PLANE"});
    EXPECT_TRUE(document.ok()) << controller::ErrorOf(document);
    return document.ok() ? *document : Document{};
  }

  FakeStudy fake;
  std::optional<WholeStudy> whole;
  controller::TuneEnd end;
  controller::Study study;
  std::vector<Trial> trials;
};

TEST(Report, NamesTheRecommendedPointItsBytesAndWhatBindsIt) {
  Reported reported({.settings = controller::kSloping});
  ASSERT_TRUE(reported.end.outcome.done.recommended);
  const Trial& best = reported.trials[static_cast<size_t>(*reported.end.outcome.done.recommended)];
  const std::string markdown = ToMarkdown(reported.Make());
  EXPECT_THAT(markdown, HasSubstr("trial " + std::to_string(best.number) + ", floors ("));
  EXPECT_THAT(markdown, HasSubstr(FormatBytes(best.measured.memory->live_bytes) + " measured"));
  EXPECT_THAT(markdown, HasSubstr("out of memory: higher floors do not fit the memory cap"));
  EXPECT_THAT(markdown, HasSubstr("PLANE"));
  EXPECT_THAT(markdown, Not(HasSubstr("not finished")));
}

TEST(Report, HasARowForEveryTrialAndAGlyphForEveryPoint) {
  Reported reported({.settings = controller::kSloping});
  const Document document = reported.Make();
  const std::string html = ToHtml(document);
  for (const Trial& trial : reported.trials) {
    EXPECT_THAT(html, HasSubstr("<title>trial " + std::to_string(trial.number) + " "));
  }
  size_t rows = 0;
  for (const Block& block : document.blocks) {
    const Table* table = std::get_if<Table>(&block);
    if (table != nullptr && table->head[0] == "trial") rows = table->rows.size();
  }
  EXPECT_EQ(rows, reported.trials.size());
}

TEST(Report, ShowsWhatWasCalledGarbageEscaped) {
  nlohmann::json model = controller::kSloping;
  model["garbage_below"] = {{"strict", 0.9}};
  Reported reported({.settings = model});
  const auto garbage = std::ranges::find_if(reported.trials, [](const Trial& trial) {
    return trial.verdict.reason == controller::Reason::kGarbageOutput;
  });
  ASSERT_NE(garbage, reported.trials.end());
  const std::vector<controller::Answer> answers = *reported.whole->store->ListAnswers(garbage->id);
  ASSERT_FALSE(answers.empty());
  const std::string html = ToHtml(reported.Make());
  EXPECT_THAT(html, HasSubstr("What was called garbage"));
  EXPECT_THAT(html, HasSubstr("<pre>" + EscapeHtml(answers[0].text.substr(0, 40))));
}

TEST(Report, ComparesTheBaselinesQuestionByQuestion) {
  Reported reported({.settings = controller::kSloping}, /*with_baseline=*/true);
  ASSERT_EQ(reported.end.outcome.baselines.size(), 2u);
  const std::string markdown = ToMarkdown(reported.Make());
  EXPECT_THAT(markdown, HasSubstr("baseline 16bit (does not fit)"));
  EXPECT_THAT(markdown, HasSubstr("Against baseline int4: "));
  EXPECT_THAT(markdown, HasSubstr("McNemar"));
}

TEST(Report, ABaselineThatTalksGarbageMarksNothingOnThePlane) {
  Reported reported({.settings = controller::kSloping}, /*with_baseline=*/true);
  const std::string clean = ToHtml(reported.Make());
  for (Trial& trial : reported.trials) {
    if (trial.plan.kind == TrialKind::kPoint) continue;
    trial.state = TrialState::kInfeasible;
    trial.verdict.reason = controller::Reason::kGarbageOutput;
  }
  const std::string html = ToHtml(reported.Make());
  EXPECT_THAT(html, HasSubstr("What was called garbage"));
  const std::string area = "fill=\"var(--garbage)\"/>";
  EXPECT_EQ(clean.find(area), html.find(area));
}

TEST(Report, OfASearchThatGoesOnSaysSo) {
  Reported reported({.settings = controller::kSloping});
  EXPECT_THAT(ToMarkdown(reported.Make(/*finished=*/false)),
              HasSubstr("The search is not finished"));
}

TEST(Report, WithoutARecommendationNamesTheBound) {
  Reported reported({});
  reported.end.outcome.done = SearchDone{
      .recommended = {}, .bound = controller::Bound::kOutOfMemory, .why = "nothing fits"};
  const std::string markdown = ToMarkdown(reported.Make());
  EXPECT_THAT(markdown, HasSubstr("No feasible point: nothing fits (out\\_of\\_memory)."));
}

TEST(Report, ListsAlarms) {
  Reported reported({});
  reported.end.outcome.done.alarms = {"trial 3 contradicts trial 5"};
  EXPECT_THAT(ToMarkdown(reported.Make()), HasSubstr("Alarm: trial 3 contradicts trial 5"));
}

}  // namespace
}  // namespace hproc::web
