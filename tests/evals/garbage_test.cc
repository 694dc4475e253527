#include "evals/garbage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "evals/task_file.h"
#include "test_files.h"

namespace hproc::evals {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

// A completion whose tokens are its bytes: the crudest tokenizer, and the one with the most
// repetition.
ProbeResult Said(std::string text, FinishReason finish = FinishReason::kEndToken,
                 ProbeKind kind = ProbeKind::kGeneral) {
  ProbeResult result;
  result.probe.kind = kind;
  result.probe.prompt = "Question: What is 2 + 2?\nAnswer:";
  result.probe.answer = kind == ProbeKind::kGeneral ? "" : "#### 4";
  result.completion.token_ids.assign(text.begin(), text.end());
  result.completion.text = std::move(text);
  result.completion.finish = finish;
  return result;
}

std::string Times(int n, std::string_view text) {
  std::string all;
  for (int i = 0; i < n; ++i) all += text;
  return all;
}

std::vector<GarbageRule> Broken(const ProbeResult& result,
                                const GarbageCalibration& calibration = {}) {
  std::vector<GarbageRule> rules;
  for (const GarbageFinding& finding : CheckCompletion(result, 0, calibration))
    rules.push_back(finding.rule);
  return rules;
}

constexpr std::string_view kStory =
    " lived at the edge of a wood with her grandmother. Every morning she fetched water from the "
    "well, fed two hens and a "
    "goat, and walked to school along the river. One day in March the bridge was gone; the ice had "
    "taken it in the "
    "night. \"How shall I cross?\" she asked a boy on the other bank, but he only laughed and "
    "threw her a rope.";

// ---- healthy text
// --------------------------------------------------------------------------------------------------

TEST(GarbageRules, PassHealthyText) {
  const std::string story(kStory);
  for (const std::string& text : {
           story,
           std::string(" Paris."),
           std::string("12"),
           " Well" + Times(40, ".") + story,               // an ellipsis
           story + "\n" + Times(63, "-"),                  // a ruler at the end of what was allowed
           story + "\n" + Times(100, "=") + "\n" + story,  // a ruler between two paragraphs
           std::string("| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n| 5 | 6 |\n"),
           std::string("1. one\n2. two\n3. three\n4. four\n5. five\n6. six\n7. seven\n8. eight\n"),
           std::string("for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\r\n}\nreturn sum;\n"),
           std::string("\u6c34\u5728\u4e00\u767e\u5ea6\u6cb8\u817e\u3002"),
           std::string("\U0001F642\U0001F642\U0001F642 caf\u00e9 \u2014 \u201cna\u00efve\u201d"),
           std::string("Half the price \xEF\xBF\xBD but whole: one broken character is no verdict "
                       "on a model"),
       }) {
    EXPECT_THAT(Broken(Said(text, FinishReason::kLength)), IsEmpty()) << text;
    EXPECT_THAT(Broken(Said(text, FinishReason::kEndToken)), IsEmpty()) << text;
  }
}

TEST(GarbageRules, PassEveryWorkedSolutionOfTheEmbeddedTask) {
  const Result<TaskFile> tasks = ReadTaskFile(WordmathFolder() / "dev.jsonl");
  ASSERT_TRUE(tasks.ok()) << tasks.error().message;
  for (const TaskItem& item : tasks->items) {
    EXPECT_THAT(Broken(Said(" " + item.answer, FinishReason::kLength)), IsEmpty()) << item.answer;
  }
}

// One token a word or mark with the space before it, or a digit: nearer to a real tokenizer than
// bytes are.
std::vector<int32_t> Words(const std::string& text) {
  std::vector<int32_t> ids;
  std::map<std::string, int32_t> vocabulary;
  for (size_t start = 0; start < text.size();) {
    size_t end = start + (text[start] == ' ' ? 2 : 1);
    const auto is_letter = [&text](size_t i) {
      return std::isalpha(static_cast<unsigned char>(text[i])) != 0;
    };
    while (end < text.size() && is_letter(end - 1) && is_letter(end)) ++end;
    const auto next = static_cast<int32_t>(vocabulary.size());
    ids.push_back(vocabulary.try_emplace(text.substr(start, end - start), next).first->second);
    start = end;
  }
  return ids;
}

TEST(GarbageRules, PassTheWorkedSolutionsOfGsm8k) {
  HPROC_SKIP_WITHOUT_GSM8K();
  const Result<TaskFile> tasks = ReadTaskFile(Gsm8kFolder() / "test.jsonl");
  ASSERT_TRUE(tasks.ok()) << tasks.error().message;
  int broken = 0;
  for (const TaskItem& item : tasks->items) {
    ProbeResult result = Said(item.answer, FinishReason::kLength);
    result.completion.token_ids = Words(item.answer);
    broken += Broken(result).empty() ? 0 : 1;
  }
  EXPECT_EQ(broken, 0);
}

TEST(GarbageRules, ForgiveTheCharacterThatTheCutFellInto) {
  EXPECT_THAT(Broken(Said("\xF0\x9F", FinishReason::kLength)), ElementsAre(GarbageRule::kEmpty));
  EXPECT_THAT(
      Broken(Said("\u6c34\u5728 \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", FinishReason::kLength)),
      IsEmpty());
  EXPECT_THAT(
      Broken(Said("\u6c34\u5728 \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", FinishReason::kEndToken)),
      ElementsAre(GarbageRule::kReplacementCharacters));
}

// ---- broken text
// ---------------------------------------------------------------------------------------------------

TEST(GarbageRules, FindNonFiniteLogitsAndLookNoFurther) {
  ProbeResult result = Said(Times(200, "!"), FinishReason::kNonFinite);
  result.completion.nonfinite_logits = 1024;
  const std::vector<GarbageFinding> findings = CheckCompletion(result, 3, {});
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].probe, 3);
  EXPECT_EQ(findings[0].rule, GarbageRule::kNonFinite);
  EXPECT_EQ(findings[0].detail, "1024 logits");
}

TEST(GarbageRules, FindATokenRepeatedToTheEnd) {
  EXPECT_THAT(Broken(Said(" The answer is" + Times(300, "!"), FinishReason::kLength)),
              ElementsAre(GarbageRule::kHardLoop, GarbageRule::kFewDistinctTokens));
}

TEST(GarbageRules, FindASentenceRepeatedToTheEndAndSayWhere) {
  const std::vector<GarbageFinding> findings = CheckCompletion(
      Said(" Yes. " + Times(6, "The quick brown fox naps.\n"), FinishReason::kLength), 0, {});
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].rule, GarbageRule::kHardLoop);
  EXPECT_EQ(findings[0].detail, "period 26, 6 copies from token 6");
}

TEST(GarbageRules, FindAPhraseThatKeepsComingBackBetweenOthers) {
  std::string text;
  for (char c = 'a'; c <= 'l'; ++c) text += std::string("the end") + c + "; ";
  EXPECT_THAT(Broken(Said(text)), IsEmpty());  // twelve times
  text += "the endm; ";
  EXPECT_THAT(Broken(Said(text)), ElementsAre(GarbageRule::kRepeatedPhrases));
}

TEST(GarbageRules, FindAFewTokensInAnyOrder) {
  std::string text;
  for (unsigned state = 1, i = 0; i < 300; ++i) {
    state = state * 1664525u + 1013904223u;
    text += static_cast<char>('a' + (state >> 16) % 12);
  }
  EXPECT_THAT(Broken(Said(text)), ElementsAre(GarbageRule::kFewDistinctTokens));
}

TEST(GarbageRules, FindBytesThatAreNoText) {
  EXPECT_THAT(Broken(Said("ab\xFF\xC3(\x80 cd")), ElementsAre(GarbageRule::kReplacementCharacters));
  EXPECT_THAT(Broken(Said("ab\x01\x02\x1B cd")), ElementsAre(GarbageRule::kControlCharacters));
  EXPECT_THAT(Broken(Said("ab\u0085\u0090\x7F cd")), ElementsAre(GarbageRule::kControlCharacters));
}

TEST(GarbageRules, FindSilence) {
  EXPECT_THAT(Broken(Said("")), ElementsAre(GarbageRule::kEmpty));
  EXPECT_THAT(Broken(Said(" \n\t")), ElementsAre(GarbageRule::kEmpty));
}

TEST(GarbageRules, FindLettersThatTheReferenceDoesNotWrite) {
  GarbageCalibration latin;
  latin.scripts.set(static_cast<size_t>(Script::kLatin));
  const std::string mixed =
      " The water \u6c34\u5728\u4e00\u767e\u5ea6\u6cb8\u817e\u3002\u043d\u043e";
  EXPECT_THAT(Broken(Said(mixed)), IsEmpty());  // no reference, no expectation
  EXPECT_THAT(Broken(Said(mixed), latin), ElementsAre(GarbageRule::kUnexpectedScript));
  EXPECT_THAT(Broken(Said(" The water \u6c34\u5728\u4e00 is warm"), latin),
              IsEmpty());                                                    // three letters
  EXPECT_THAT(Broken(Said(std::string(kStory) + mixed), latin), IsEmpty());  // less than a fifth
}

// ---- calibration
// ---------------------------------------------------------------------------------------------------

// A reference that answers its eight sums and goes on with four sentences.
std::vector<ProbeResult> HealthyReference() {
  std::vector<ProbeResult> results;
  for (int i = 0; i < 4; ++i) results.push_back(Said(std::string(kStory), FinishReason::kLength));
  for (int i = 0; i < 8; ++i) {
    results.push_back(
        Said(" 2 + 2 = <<2+2=4>>4\n#### 4", FinishReason::kEndToken, ProbeKind::kTask));
  }
  return results;
}

TEST(GarbageCalibration, MeasuresTheReference) {
  const GarbageCalibration calibration = CalibrateGarbage(HealthyReference());
  EXPECT_EQ(calibration.probes, 12);
  EXPECT_EQ(calibration.failing_share, 0);
  EXPECT_DOUBLE_EQ(calibration.stop_rate, 8.0 / 12);
  EXPECT_EQ(calibration.number_rate, 1);
  EXPECT_EQ(calibration.strict_rate, 1);
  EXPECT_EQ(calibration.right_rate, 1);
  EXPECT_EQ(calibration.scripts.to_ulong(), 1u << static_cast<int>(Script::kLatin));
  for (const auto& rules : calibration.disabled) EXPECT_TRUE(rules.none());
}

TEST(GarbageCalibration, DisablesARuleTheReferenceBreaksOnMoreThanAQuarterOfOneKind) {
  std::vector<ProbeResult> reference = HealthyReference();
  const ProbeResult loop = Said(Times(300, "ab"), FinishReason::kLength);
  reference[0] = loop;
  EXPECT_TRUE(CalibrateGarbage(reference).disabled[0].none());  // one of four general probes
  EXPECT_DOUBLE_EQ(CalibrateGarbage(reference).failing_share, 1.0 / 12);
  reference[1] = loop;
  const GarbageCalibration calibration = CalibrateGarbage(reference);
  EXPECT_TRUE(calibration.disabled[0].test(static_cast<size_t>(GarbageRule::kHardLoop)));
  EXPECT_TRUE(calibration.disabled[2].none());  // of the task nothing was broken
  EXPECT_EQ(calibration.failing_share, 0);
  EXPECT_THAT(Broken(loop, calibration), IsEmpty());
  ProbeResult task_loop = loop;
  task_loop.probe.kind = ProbeKind::kTask;
  EXPECT_THAT(Broken(task_loop, calibration), testing::Contains(GarbageRule::kHardLoop));
}

TEST(GarbageCalibration, NeverForgivesNonFiniteLogits) {
  std::vector<ProbeResult> reference = HealthyReference();
  for (ProbeResult& result : reference) result.completion.nonfinite_logits = 1;
  EXPECT_EQ(JudgeGarbage(reference, CalibrateGarbage(reference)).verdict, GarbageVerdict::kGarbage);
}

TEST(GarbageCalibration, OfNothingIsTheDefault) {
  EXPECT_EQ(CalibrateGarbage({}), GarbageCalibration{});
}

TEST(GarbageCalibration, SurvivesTheStore) {
  GarbageCalibration calibration = CalibrateGarbage(HealthyReference());
  calibration.disabled[1].set(static_cast<size_t>(GarbageRule::kRepeatedPhrases));
  calibration.scripts.set(static_cast<size_t>(Script::kHan));
  calibration.failing_share = 1.0 / 3;
  for (const GarbageCalibration& c : {calibration, GarbageCalibration{}}) {
    const Result<GarbageCalibration> back = GarbageCalibrationFromJson(GarbageCalibrationToJson(c));
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(*back, c);
  }
}

TEST(GarbageCalibration, RefusesJsonThatIsNotItsOwn) {
  const nlohmann::json good = nlohmann::json::parse(GarbageCalibrationToJson({}));
  const auto error_of = [&good](const char* key, const nlohmann::json& value) {
    nlohmann::json changed = good;
    changed[key] = value;
    const Result<GarbageCalibration> parsed = GarbageCalibrationFromJson(changed.dump());
    return parsed.ok() ? std::string() : parsed.error().message;
  };
  EXPECT_EQ(error_of("version", 1), "");
  EXPECT_THAT(error_of("version", 2), HasSubstr("another version"));
  EXPECT_THAT(error_of("probes", -1), HasSubstr("probes"));
  EXPECT_THAT(error_of("stop_rate", 1.5), HasSubstr("stop_rate"));
  EXPECT_THAT(error_of("right_rate", nullptr), HasSubstr("right_rate"));
  EXPECT_THAT(error_of("scripts", {"klingon"}), HasSubstr("unknown script"));
  EXPECT_THAT(error_of("disabled", nlohmann::json::object()), HasSubstr("general"));
  nlohmann::json rules = good["disabled"];
  rules["task"] = {"nonfinite_logits"};
  EXPECT_THAT(error_of("disabled", rules), HasSubstr("always in force"));
  for (const std::string_view text : {"", "{", "[]", "null", "7"}) {
    EXPECT_FALSE(GarbageCalibrationFromJson(text).ok()) << text;
  }
}

// ---- verdict
// -------------------------------------------------------------------------------------------------------

// The healthy reference with `loops` of its task answers gone into a loop.
std::vector<ProbeResult> WithLoops(int loops) {
  std::vector<ProbeResult> results = HealthyReference();
  for (int i = 0; i < loops; ++i) {
    results[static_cast<size_t>(4 + i)] =
        Said(Times(200, "so 4 "), FinishReason::kLength, ProbeKind::kTask);
  }
  return results;
}

TEST(GarbageVerdict, OfTheReferenceItselfIsSensible) {
  const std::vector<ProbeResult> reference = HealthyReference();
  const GarbageJudgement judgement = JudgeGarbage(reference, CalibrateGarbage(reference));
  EXPECT_EQ(judgement.verdict, GarbageVerdict::kSensible);
  EXPECT_EQ(judgement.rule, GarbageRule::kNone);
  EXPECT_EQ(judgement.probe, -1);
  EXPECT_EQ(judgement.message, "");
}

TEST(GarbageVerdict, TurnsFromSensibleToSuspectToGarbageWithTheProbesThatFail) {
  const GarbageCalibration calibration = CalibrateGarbage(HealthyReference());
  EXPECT_EQ(JudgeGarbage(WithLoops(1), calibration).verdict,
            GarbageVerdict::kSensible);  // one in ten of 12 is 2
  EXPECT_EQ(JudgeGarbage(WithLoops(2), calibration).verdict, GarbageVerdict::kSuspect);
  EXPECT_EQ(JudgeGarbage(WithLoops(5), calibration).verdict, GarbageVerdict::kSuspect);
  EXPECT_EQ(JudgeGarbage(WithLoops(6), calibration).verdict, GarbageVerdict::kGarbage);
}

TEST(GarbageVerdict, NamesTheRuleTheCountAndATranscript) {
  const GarbageJudgement judgement =
      JudgeGarbage(WithLoops(6), CalibrateGarbage(HealthyReference()));
  EXPECT_EQ(judgement.rule, GarbageRule::kHardLoop);
  EXPECT_EQ(judgement.probe, 4);
  EXPECT_EQ(judgement.probes, 12);
  EXPECT_EQ(judgement.failing, 6);
  EXPECT_EQ(
      judgement.message,
      "hard_loop: 6 of 12 probes fail (6 are garbage); probe 4: period 5, 200 copies from token 0");
}

TEST(GarbageVerdict, AsksForMoreWhereTheReferenceFailsToo) {
  // A reference with one loop in eight: not enough to disable the rule, enough to expect one more.
  const GarbageCalibration calibration = CalibrateGarbage(WithLoops(1));
  EXPECT_DOUBLE_EQ(calibration.failing_share, 1.0 / 12);
  EXPECT_EQ(JudgeGarbage(WithLoops(2), calibration).verdict, GarbageVerdict::kSensible);
  EXPECT_EQ(JudgeGarbage(WithLoops(6), calibration).verdict, GarbageVerdict::kSuspect);
  EXPECT_EQ(JudgeGarbage(WithLoops(7), calibration).verdict, GarbageVerdict::kGarbage);
}

TEST(GarbageVerdict, IsGarbageAtOneNonFiniteLogit) {
  std::vector<ProbeResult> results = HealthyReference();
  results[7].completion.nonfinite_logits = 1;
  const GarbageJudgement judgement = JudgeGarbage(results, {});
  EXPECT_EQ(judgement.verdict, GarbageVerdict::kGarbage);
  EXPECT_EQ(judgement.rule, GarbageRule::kNonFinite);
  EXPECT_EQ(judgement.probe, 7);
  EXPECT_EQ(judgement.message, "nonfinite_logits: probe 7: 1 logits");
}

TEST(GarbageVerdict, IsGarbageWhenNothingStopsThatDidBefore) {
  std::vector<ProbeResult> results = HealthyReference();
  for (ProbeResult& result : results) result.completion.finish = FinishReason::kLength;
  EXPECT_EQ(JudgeGarbage(results, {}).verdict,
            GarbageVerdict::kSensible);  // a base model may never stop
  const GarbageJudgement judgement = JudgeGarbage(results, CalibrateGarbage(HealthyReference()));
  EXPECT_EQ(judgement.verdict, GarbageVerdict::kGarbage);
  EXPECT_EQ(judgement.rule, GarbageRule::kNeverStops);
}

std::vector<ProbeResult> WithTaskText(const std::string& text) {
  std::vector<ProbeResult> results = HealthyReference();
  for (size_t i = 4; i < results.size(); ++i)
    results[i] = Said(text, FinishReason::kEndToken, ProbeKind::kTask);
  return results;
}

TEST(GarbageVerdict, IsGarbageWithoutNumbersWhereNumbersAreAskedFor) {
  const GarbageCalibration calibration = CalibrateGarbage(HealthyReference());
  const GarbageJudgement judgement =
      JudgeGarbage(WithTaskText(" the river, i.e., the bank..."), calibration);
  EXPECT_EQ(judgement.verdict, GarbageVerdict::kGarbage);
  EXPECT_EQ(judgement.rule, GarbageRule::kNoNumbers);
}

TEST(GarbageVerdict, IsGarbageWhenNothingIsRightThatWasBefore) {
  const GarbageCalibration calibration = CalibrateGarbage(HealthyReference());
  const GarbageJudgement judgement =
      JudgeGarbage(WithTaskText(" 2 coins tak 3iedle #### 17"), calibration);
  EXPECT_EQ(judgement.verdict, GarbageVerdict::kGarbage);
  EXPECT_EQ(judgement.rule, GarbageRule::kNothingRight);
  EXPECT_EQ(judgement.message,
            "nothing_right: none of 8 answers is right, 100.0 % of the reference's are");
}

TEST(GarbageVerdict, IsSuspectWhenNothingIsRightAndNobodyKnowsWhetherItCouldBe) {
  EXPECT_EQ(JudgeGarbage(WithTaskText("#### 17"), {}).rule, GarbageRule::kNothingRight);
  EXPECT_EQ(JudgeGarbage(WithTaskText("#### 17"), {}).verdict, GarbageVerdict::kSuspect);
  // A reference that gets nothing right either asks nothing of others.
  const GarbageCalibration calibration = CalibrateGarbage(WithTaskText("#### 5"));
  EXPECT_EQ(JudgeGarbage(WithTaskText("#### 17"), calibration).verdict, GarbageVerdict::kSensible);
}

// Eight answers are asked for a number. Half of a reference that is always right: 1 right or none has odds of 9 in 256, 2 or
// fewer of 37.
TEST(GarbageVerdict, IsSuspectWhereOneAnswerIsRightAndSensibleWhereTwoAre) {
  const GarbageCalibration calibration = CalibrateGarbage(HealthyReference());
  std::vector<ProbeResult> results = WithTaskText("#### 17");
  results[9] = HealthyReference()[9];
  const GarbageJudgement one = JudgeGarbage(results, calibration);
  EXPECT_EQ(one.verdict, GarbageVerdict::kSuspect);
  EXPECT_EQ(one.rule, GarbageRule::kHardlyAnyRight);
  EXPECT_EQ(one.message, "hardly_any_right: 1 of 8 answers are right, 100.0 % of the reference's are");
  results[10] = HealthyReference()[10];
  EXPECT_EQ(JudgeGarbage(results, calibration).verdict, GarbageVerdict::kSensible);
}

TEST(GarbageVerdict, OfFewRightIsSensibleWhereTheReferenceHasFewToo) {
  std::vector<ProbeResult> weak = WithTaskText("#### 17");
  for (size_t i : {8u, 9u}) weak[i] = HealthyReference()[i];
  std::vector<ProbeResult> weaker = WithTaskText("#### 17");
  weaker[9] = HealthyReference()[9];
  EXPECT_EQ(JudgeGarbage(weaker, CalibrateGarbage(weak)).verdict, GarbageVerdict::kSensible);
}

TEST(GarbageVerdict, IsSuspectWhereTheFormatOfTheAnswerIsLost) {
  const GarbageCalibration calibration = CalibrateGarbage(HealthyReference());
  const GarbageJudgement judgement = JudgeGarbage(WithTaskText(" The answer is 4."), calibration);
  EXPECT_EQ(judgement.verdict, GarbageVerdict::kSuspect);
  EXPECT_EQ(judgement.rule, GarbageRule::kNoNumbers);
}

TEST(GarbageVerdict, OfNoProbesIsSensible) {
  EXPECT_EQ(JudgeGarbage({}, CalibrateGarbage(HealthyReference())).verdict,
            GarbageVerdict::kSensible);
}

// ---- real transcripts
// ----------------------------------------------------------------------------------------------

// tests/data/evals/README.md says how they were made.
std::map<std::string, std::vector<ProbeResult>> ReadTranscripts() {
  std::map<std::string, std::vector<ProbeResult>> models;
  std::ifstream file(std::filesystem::path(HPROC_TEST_DATA) / "evals" / "probe_transcripts.jsonl");
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json object = nlohmann::json::parse(line);
    ProbeResult result;
    for (const ProbeKind kind : {ProbeKind::kGeneral, ProbeKind::kArithmetic, ProbeKind::kTask}) {
      if (object["kind"] == ProbeKindName(kind)) result.probe.kind = kind;
    }
    result.probe.prompt = object["prompt"];
    result.probe.answer = object["answer"];
    result.completion.text = object["text"];
    result.completion.token_ids = object["token_ids"].get<std::vector<int32_t>>();
    result.completion.finish = object["finish"] == "end"    ? FinishReason::kEndToken
                               : object["finish"] == "stop" ? FinishReason::kStopText
                                                            : FinishReason::kLength;
    models[object["model"]].push_back(std::move(result));
  }
  return models;
}

TEST(EmbeddedModel, LoopsOnGeneralPromptsWhenHealthySoThoseRulesAreNotAskedOfIt) {
  const GarbageCalibration calibration = CalibrateGarbage(ReadTranscripts()["reference"]);
  EXPECT_EQ(calibration.probes, 22);
  EXPECT_TRUE(calibration.disabled[0].test(static_cast<size_t>(GarbageRule::kHardLoop)));
  EXPECT_TRUE(calibration.disabled[1].none());
  EXPECT_TRUE(calibration.disabled[2].none());
  EXPECT_EQ(calibration.failing_share, 0);
  EXPECT_DOUBLE_EQ(calibration.right_rate, 13.0 / 16);
}

TEST(EmbeddedModel, IsSensibleAtThreeBitsAndGarbageAtTwoLevels) {
  const auto models = ReadTranscripts();
  ASSERT_EQ(models.size(), 5u);
  const GarbageCalibration calibration = CalibrateGarbage(models.at("reference"));
  EXPECT_EQ(JudgeGarbage(models.at("reference"), calibration).verdict, GarbageVerdict::kSensible);
  EXPECT_EQ(JudgeGarbage(models.at("k8_k3"), calibration).verdict, GarbageVerdict::kSensible);
  EXPECT_EQ(JudgeGarbage(models.at("k4_k4"), calibration).verdict, GarbageVerdict::kSensible);
  const GarbageJudgement two_levels = JudgeGarbage(models.at("k2_k2"), calibration);
  EXPECT_EQ(two_levels.verdict, GarbageVerdict::kGarbage);
  EXPECT_THAT(two_levels.message, StartsWith("nothing_right: none of 16 answers is right"));
  EXPECT_EQ(JudgeGarbage(models.at("noise_1"), calibration).verdict, GarbageVerdict::kGarbage);
}

TEST(EmbeddedModel, IsNotGarbageUnjudgedByAReference) {
  const auto models = ReadTranscripts();
  EXPECT_NE(JudgeGarbage(models.at("reference"), {}).verdict, GarbageVerdict::kGarbage);
  // What a loader that mixes up tensors produces.
  EXPECT_EQ(JudgeGarbage(models.at("noise_1"), {}).verdict, GarbageVerdict::kSuspect);
}

}  // namespace
}  // namespace hproc::evals
