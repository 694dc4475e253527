// A study from the command line: what goes to standard output, what to standard error, how it ends.
#include <signal.h>

#include <map>
#include <set>

#include "base/file.h"
#include "controller/cli/exit_codes.h"
#include "tests/controller/cli/cli_fixture.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using testing::IsSupersetOf;
using testing::Not;
using testing::StartsWith;

std::set<std::string> Keys(const json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

// The one object that a command prints.
json Object(const Finished& finished) {
  EXPECT_EQ(finished.out.find('\n') + 1, finished.out.size()) << "one line: " << finished.out;
  return json::parse(finished.out, nullptr, false);
}

// ---- tune ----

TEST_F(CliTest, TuneEndsWithOneObjectOfTheKeysThatScriptsRelyOn) {
  Play({.questions = 60, .settings = kSloping});
  const Finished finished = Run(Tune({"--json", "--baseline-16bit"}));
  EXPECT_EQ(finished.exit_code, kExitDone) << finished.err;
  const json outcome = Object(finished);
  EXPECT_EQ(Keys(outcome),
            (std::set<std::string>{"recommended", "bound", "why", "fault", "alarms", "loads",
                                   "trials", "study", "baselines", "int4_g128"}));
  const json& point = outcome["recommended"];
  EXPECT_EQ(Keys(point), (std::set<std::string>{"trial", "strict", "lazy", "head", "plan_digest",
                                                "weight_bytes", "predicted_bytes", "measured_bytes",
                                                "headroom_bytes", "bits_per_weight", "accuracy",
                                                "decode_tok_per_s", "prefill_tok_per_s"}));
  EXPECT_EQ(Keys(point["accuracy"]),
            (std::set<std::string>{"correct", "total", "rate", "low", "high", "flexible_correct",
                                   "invalid", "truncated", "correct_by_seed", "truncated_flag"}));
  ASSERT_EQ(outcome["baselines"].size(), 1U);
  EXPECT_EQ(outcome["baselines"][0]["kind"], "baseline_16bit");

  // Figures that hold together.
  const FloorPair at = fake_->space().PairOf({.strict = point["strict"], .lazy = point["lazy"]});
  EXPECT_EQ(point["plan_digest"], fake_->space().At(at).digest);
  EXPECT_EQ(point["measured_bytes"], fake_->TrueBytes(at));
  EXPECT_EQ(point["predicted_bytes"], point["measured_bytes"]);
  EXPECT_EQ(point["headroom_bytes"], 1'000'000 - fake_->TrueBytes(at));
  EXPECT_EQ(point["accuracy"]["total"], 60);
  EXPECT_EQ(outcome["bound"], "out_of_memory");
  EXPECT_EQ(outcome["loads"], outcome["trials"]);
  // The fake decodes its bandwidth over its weights.
  EXPECT_NEAR(point["decode_tok_per_s"], 1e9 / point["weight_bytes"].get<double>(), 0.01);
}

TEST_F(CliTest, TuneRunsBothBaselinesAndNamesThem) {
  Play({.questions = 20});
  const Finished finished = Run(Tune({"--baseline-16bit", "--baseline-int4"}));
  EXPECT_EQ(finished.exit_code, kExitDone) << finished.err;
  EXPECT_THAT(finished.out, AllOf(HasSubstr("\n  16 bits    "), HasSubstr("\n  INT4 g128  ")));
}

TEST_F(CliTest, TuneReportsProgressOnStandardErrorAlone) {
  const Finished finished = Run(Tune());
  EXPECT_EQ(finished.exit_code, kExitDone);
  EXPECT_THAT(finished.err,
              AllOf(HasSubstr("measuring what each floor costs: "), HasSubstr("trial 0 ")));
  EXPECT_THAT(finished.err, Not(HasSubstr("\x1b"))) << "not a terminal";
  EXPECT_THAT(finished.out, AllOf(HasSubstr("Recommended: trial "), HasSubstr("strict"),
                                  HasSubstr("headroom"), Not(HasSubstr("measuring"))));
}

TEST_F(CliTest, TuneSaysWhichBoundBindsWhereNoPointIsFeasible) {
  std::vector<std::string> arguments = Tune({"--json"});
  *std::ranges::find(arguments, "1000000") = "400000";
  const Finished finished = Run(arguments);
  EXPECT_EQ(finished.exit_code, kExitNoFeasiblePoint);
  const json outcome = Object(finished);
  EXPECT_TRUE(outcome["recommended"].is_null());
  EXPECT_EQ(outcome["bound"], "out_of_memory");
  EXPECT_TRUE(outcome["fault"].is_null());
  EXPECT_THAT(Run(On("trials")).out, HasSubstr("out_of_memory at load, short "));
  ExpectRefusal(Run(On("export")), kExitNoFeasiblePoint, "recommends no point to export");
}

TEST_F(CliTest, TuneTakesAStudyThatCannotBeBelievedForInfrastructure) {
  Play({.script = {{"generate", {"segv"}}}});
  const Finished finished = Run(Tune({"--json"}));
  EXPECT_EQ(finished.exit_code, kExitInfrastructure);
  EXPECT_THAT(Object(finished)["fault"].get<std::string>(), HasSubstr("failed"));
}

TEST_F(CliTest, TuneGivesEachStudyOfAFileANameOfItsOwn) {
  EXPECT_EQ(
      Object(Run(Tune({"--json", "--limit", "20"})))["study"],
      std::filesystem::path(fake_->model_dir()).parent_path().filename().string() + "-0.953674MiB");
  EXPECT_THAT(Object(Run(Tune({"--json", "--limit", "20"})))["study"].get<std::string>(),
              testing::EndsWith("MiB-2"));
}

// Loads of the real worker, refusals of its own budget; what the model says is noise, and nobody looks at it.
TEST_F(CliTest, TuneFindsWhatFitsOfAModelOfRandomWeightsAndGivesNoAccuracy) {
  const auto tune = [&](int64_t memory) {
    return Command({"tune", "--model", "synthetic:" HPROC_TEST_DATA "/goldens/architectures/qwen3_5_moe/config.json", "--memory",
                    std::to_string(memory), "--context", "64", "--db", db(), "--json"},
                   WithRealWorker())
        .Wait();
  };
  const json whole = Object(tune(int64_t{1} << 30));
  EXPECT_EQ(whole["bound"], "none");
  EXPECT_EQ(whole["loads"], 1);
  const json& all = whole["recommended"];
  EXPECT_TRUE(all["accuracy"].is_null());
  EXPECT_EQ(all["accuracy_reason"], "random weights answer no questions");
  EXPECT_EQ(all["measured_bytes"], all["predicted_bytes"]);
  EXPECT_GT(all["decode_tok_per_s"], 0);

  const int64_t cap = all["measured_bytes"].get<int64_t>() - all["weight_bytes"].get<int64_t>() / 2;
  const Finished finished = tune(cap);
  EXPECT_EQ(finished.exit_code, kExitDone) << finished.err;
  const json less = Object(finished);
  EXPECT_EQ(less["bound"], "out_of_memory");
  EXPECT_LE(less["recommended"]["measured_bytes"], cap);
  EXPECT_LT(less["recommended"]["bits_per_weight"], all["bits_per_weight"]);
  EXPECT_GE(less["loads"], 2);
  const std::string trials = Run(On("trials")).out;
  EXPECT_THAT(trials, AllOf(HasSubstr("out_of_memory at "), HasSubstr("timed; random weights answer no questions"),
                            Not(HasSubstr("garbage"))));
}

// ---- looking ----

TEST_F(CliTest, LookingPutsDataOnStandardOutputAndSaysNothingElse) {
  Play({.questions = 60, .settings = kSloping});
  const json outcome = Object(Run(Tune({"--json", "--study", "demo"})));
  for (const auto& [command, what] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {On("status"), "demo  done"},
           {On("trials"), "outside_strict"},
           {On("frontier"), "recommended"},
           {On("show", {"0"}), "trial 0 of demo"}}) {
    const Finished finished = Run(command);
    EXPECT_EQ(finished.exit_code, kExitDone);
    EXPECT_EQ(finished.err, "");
    EXPECT_THAT(finished.out, HasSubstr(what));
  }
  const json status = Object(Run(On("status", {"--json"})));
  EXPECT_EQ(status[0]["study"], "demo");
  EXPECT_EQ(status[0]["outcome"], outcome);
  const json trials = Object(Run(On("trials", {"--json"})));
  EXPECT_EQ(trials.size(), outcome["trials"].get<size_t>());
  const json frontier = Object(Run(On("frontier", {"--json"})));
  EXPECT_FALSE(frontier["predicted_fit_frontier"].empty());
  EXPECT_EQ(frontier["trials"], trials);
  const json shown = Object(Run(On("show", {outcome["recommended"]["trial"].dump(), "--json"})));
  EXPECT_EQ(shown["plan"]["digest"], outcome["recommended"]["plan_digest"]);
  EXPECT_EQ(shown["answers"].size(), 60U + 22U);
}

TEST_F(CliTest, PlanPredictsARealCheckpointWithoutLoadingIt) {
  const std::vector<std::string> arguments = {
      "plan",      "--model",  HPROC_TEST_DATA "/goldens/architectures/qwen3_5_moe",
      "--strict",  "0.985",    "--lazy",
      "0.93",      "--tables", fake_->File("tables"),
      "--context", "256",      "--json"};
  const Finished first = Command(arguments, WithRealWorker()).Wait();
  EXPECT_EQ(first.exit_code, kExitDone) << first.err;
  EXPECT_EQ(first.err, "");
  const json plan = Object(first);
  EXPECT_THAT(Keys(plan),
              IsSupersetOf({"strict", "lazy", "plan_digest", "weight_bytes", "predicted_bytes",
                            "bits_per_weight", "families", "ledger"}));
  EXPECT_GE(plan["families"]["strict"]["min_cosine"], 0.985F);
  EXPECT_GE(plan["families"]["lazy"]["min_cosine"], 0.93F);
  EXPECT_LT(plan["bits_per_weight"], 16);
  int64_t held = 0;
  for (const json& line : plan["ledger"])
    held += line["name"] == "workspace_peak" ? 0 : line["bytes"].get<int64_t>();
  EXPECT_EQ(held, plan["predicted_bytes"]);
  // And the same again from the table that it kept.
  EXPECT_EQ(Command(arguments, WithRealWorker()).Wait().out, first.out);
}

TEST_F(CliTest, ScoreCountsStrictFlexibleAndInvalidAnswers) {
  const std::string file = fake_->File("answers.jsonl");
  ASSERT_TRUE(WriteFileAtomically(file, R"({"answer": "18", "output": "So it is.\n#### 18"}
{"answer": "18", "output": "So it is 18"}
{"answer": "18", "output": "#### 42"}
{"answer": "18", "output": "no idea"}
)")
                  .ok());
  const Finished finished = Run({"score", "--answers", file});
  EXPECT_EQ(finished.exit_code, kExitDone);
  EXPECT_EQ(finished.out, "{\"total\":4,\"strict\":1,\"flexible\":2,\"invalid\":2}\n");
  EXPECT_EQ(finished.err, "");
  ASSERT_TRUE(WriteFileAtomically(file, "{\"answer\": \"18\"}\n").ok());
  ExpectRefusal(Run({"score", "--answers", file}), kExitInfrastructure, "answers.jsonl");
}

TEST_F(CliTest, SaysThatStandardOutputIsFull) {
  const std::string file = fake_->File("answers.jsonl");
  ASSERT_TRUE(WriteFileAtomically(file, "{\"answer\": \"18\", \"output\": \"18\"}\n").ok());
  Command::Options full = WithFakeWorker();
  full.stdout_file = "/dev/full";
  ExpectRefusal(Command({"score", "--answers", file}, full).Wait(), kExitInfrastructure,
                "standard output");
}

TEST_F(CliTest, HelpAndVersionAreData) {
  for (const char* option : {"--help", "--version"}) {
    const Finished finished = Run({option});
    EXPECT_EQ(finished.exit_code, kExitDone);
    EXPECT_EQ(finished.err, "");
    EXPECT_NE(finished.out, "");
  }
}

// ---- export and verify ----

TEST_F(CliTest, ExportsTheRecommendedPointToAFileOrStandardOutput) {
  const std::string file = fake_->File("point.json");
  ASSERT_EQ(Run(Tune({"--export", file})).exit_code, kExitDone);
  json written = json::parse(*ReadFile(file, 1 << 26));
  const Finished printed = Run(On("export"));
  EXPECT_EQ(printed.exit_code, kExitDone);
  EXPECT_EQ(printed.err, "");
  json again = json::parse(printed.out);
  for (json* point : {&written, &again}) point->erase("created_utc");
  EXPECT_EQ(again, written);
  ExpectRefusal(Run(On("export", {"--out", fake_->File("no/folder/point.json")})),
                kExitInfrastructure, "no/folder/point.json");
}

TEST_F(CliTest, VerifyHoldsWhereNothingChangedAndExitsOneOnDrift) {
  Play({.questions = 60});
  const std::string file = fake_->File("point.json");
  ASSERT_EQ(Run(Tune({"--export", file})).exit_code, kExitDone);
  const Finished held = Run({"verify", file, "--json"});
  EXPECT_EQ(held.exit_code, kExitDone) << held.out;
  EXPECT_EQ(held.err, "");
  EXPECT_EQ(Object(held)["held"], true);

  const auto broken = [&](const json& model) {
    fake_->SetModel(model);
    const Finished drift = Run({"verify", file, "--json"});
    EXPECT_EQ(drift.exit_code, kExitDrift) << drift.err;
    std::set<std::string> what;
    const json report = Object(drift);
    for (const json& check : report["checks"]) {
      if (check["held"] == false) what.insert(check["check"]);
    }
    return what;
  };
  EXPECT_EQ(broken({{"accuracy", 0.5}}), std::set<std::string>{"accuracy"});
  EXPECT_EQ(broken({{"activation_bytes", kFakeActivationBytes / 2}}),
            std::set<std::string>{"memory"});
  EXPECT_EQ(broken({{"activation_bytes", 1'000'000}}), std::set<std::string>{"fit"});
}

TEST_F(CliTest, VerifyRunsOnOtherDevicesUnderAnotherCapWhereAskedTo) {
  Play({.questions = 60});
  const std::string file = fake_->File("point.json");
  ASSERT_EQ(Run(Tune({"--export", file})).exit_code, kExitDone);
  const auto checks = [&](const std::vector<std::string>& options) {
    std::vector<std::string> arguments = {"verify", file, "--json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    std::map<std::string, bool> held;
    const json report = Object(Run(arguments));
    for (const json& check : report["checks"]) held[check["check"]] = check["held"];
    return held;
  };
  using Held = std::map<std::string, bool>;
  fake_->SetModel({{"activation_bytes", 1'000'000}});
  EXPECT_EQ(checks({}), (Held{{"fit", false}}));
  EXPECT_EQ(checks({"--memory", "1GiB"}), (Held{{"plan", true}, {"weights", true}, {"memory", false}, {"accuracy", true}}));
  // Elsewhere there is another ledger, which is not held against this one's.
  EXPECT_EQ(checks({"--memory", "1GiB", "--device", "cuda:1"}), (Held{{"plan", true}, {"weights", true}, {"accuracy", true}}));
  ExpectRefusal(Run({"verify", file, "--device", "cuda:1,1", "--tp", "2"}), kExitUsage, "cuda:1,1");
  ExpectRefusal(Run({"verify", file, "--memory", "much"}), kExitUsage, "--memory");
}

// ---- interruption ----

class CliInterrupted : public CliTest {
 protected:
  // Of a study that nobody interrupts; the loads left out, since an attempt cut off is one.
  json Undisturbed() const {
    std::vector<std::string> arguments = Tune({"--json", "--study", "demo"});
    *std::ranges::find(arguments, db()) = fake_->File("undisturbed.db");
    json outcome = Object(Run(arguments));
    outcome.erase("loads");
    return outcome;
  }
  void ExpectResumeFinishes(const json& expected) {
    Unblock();
    const Finished resumed = Run(On("resume", {"--json"}));
    EXPECT_EQ(resumed.exit_code, kExitDone) << resumed.err;
    json outcome = Object(resumed);
    outcome.erase("loads");
    EXPECT_EQ(outcome, expected);
    EXPECT_EQ(Object(Run(On("status", {"--json"})))[0]["state"], "done");
  }
};

TEST_F(CliInterrupted, BySigintOrSigtermItEndsWith130AndResumeFinishes) {
  Play({.questions = 60, .settings = kSloping});
  const json expected = Undisturbed();
  for (int signal : {SIGINT, SIGTERM}) {
    BlockAt("generate", 3, 5);
    Command tune(Tune({"--json", "--study", "demo"}), WithFakeWorker());
    AwaitBlocked();
    tune.Signal(signal);
    const Finished finished = tune.Wait();
    EXPECT_EQ(finished.exit_code, kExitInterrupted);
    EXPECT_EQ(finished.out, "");
    EXPECT_THAT(finished.err, HasSubstr("interrupted; go on with: hproc resume --db '" + db() +
                                        "' --study 'demo'"));
    EXPECT_EQ(Object(Run(On("status", {"--json"})))[0]["state"], "interrupted");
    ExpectResumeFinishes(expected);
    std::filesystem::remove(db());
  }
}

TEST_F(CliInterrupted, WhileItMeasuresItLeavesNothingBehind) {
  BlockAt("measure");
  Command tune(Tune({"--study", "demo"}), WithFakeWorker());
  AwaitBlocked();
  tune.Signal(SIGINT);
  EXPECT_EQ(tune.Wait().exit_code, kExitInterrupted);
  Unblock();
  EXPECT_EQ(Run(On("status")).out, "no study yet\n");
  EXPECT_EQ(Run(Tune({"--study", "demo"})).exit_code, kExitDone);
}

TEST_F(CliInterrupted, ByKillItResumesToo) {
  Play({.questions = 60, .settings = kSloping});
  const json expected = Undisturbed();
  BlockAt("generate", 3, 5);
  Command tune(Tune({"--json", "--study", "demo"}), WithFakeWorker());
  AwaitBlocked();
  tune.Signal(SIGKILL);
  EXPECT_EQ(tune.Wait().exit_code, 128 + SIGKILL);
  ExpectResumeFinishes(expected);
}

TEST_F(CliInterrupted, ResumeRefusesAnotherCheckpointThanTheStudyBeganWith) {
  BlockAt("generate", 3, 5);
  Command tune(Tune({"--study", "demo"}), WithFakeWorker());
  AwaitBlocked();
  tune.Signal(SIGINT);
  ASSERT_EQ(tune.Wait().exit_code, kExitInterrupted);
  Unblock();
  fake_->SetModel({{"fingerprint", "another"}});
  ExpectFailure(Run(On("resume")), kExitInfrastructure,
                "not the checkpoint that study \"demo\" began with");
  fake_->SetModel(json::object());
  ASSERT_TRUE(
      WriteFileAtomically(fake_->tasks_path(), "{\"question\": \"Why?\", \"answer\": \"42\"}\n")
          .ok());
  ExpectRefusal(Run(On("resume")), kExitInfrastructure,
                "the questions have changed since the study began");
}

TEST_F(CliInterrupted, OneControllerAtATimeWritesAStudyAndOthersMayLook) {
  BlockAt("generate", 3, 5);
  Command tune(Tune({"--study", "demo"}), WithFakeWorker());
  AwaitBlocked();
  ExpectRefusal(Run(On("resume")), kExitInfrastructure, "study.db");
  ExpectRefusal(Run(On("resume")), kExitInfrastructure, "is in use by hproc pid ");
  ExpectRefusal(Run(Tune({"--study", "other"})), kExitInfrastructure, "is in use by hproc pid ");
  const Finished status = Run(On("status", {"--json"}));
  EXPECT_EQ(status.exit_code, kExitDone) << status.err;
  EXPECT_EQ(Object(status)[0]["state"], "running");
  EXPECT_EQ(Run(On("trials")).exit_code, kExitDone);
  tune.Signal(SIGINT);
  EXPECT_EQ(tune.Wait().exit_code, kExitInterrupted);
}

}  // namespace
}  // namespace hproc::controller
