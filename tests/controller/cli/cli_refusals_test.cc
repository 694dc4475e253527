// What hproc says no to: the exit code, and one line that names what is wrong.
#include <fstream>

#include "base/file.h"
#include "controller/cli/exit_codes.h"
#include "tests/controller/cli/cli_fixture.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class CliRefusals : public CliTest {
 protected:
  // A copy of the smallest real checkpoint, to be damaged.
  std::string Checkpoint() const {
    const std::string copy = fake_->File("checkpoint");
    fs::copy(HPROC_TEST_DATA "/goldens/architectures/qwen3_5_moe", copy);
    return copy;
  }
  std::vector<std::string> Plan(const std::string& model) const {
    return {"plan",   "--model", model,      "--strict",           "0.95",
            "--lazy", "0.9",     "--tables", fake_->File("tables")};
  }
};

// ---- usage: 2 ----

TEST_F(CliRefusals, UsageThatMakesNoSense) {
  const auto with = [&](const std::string& option, const std::string& value) {
    return Tune({option, value});
  };
  struct Case {
    std::vector<std::string> arguments;
    const char* what;
  };
  const std::vector<Case> cases = {
      {{}, "subcommand"},
      {{"tuna"}, "subcommand"},
      {{"tune", "--memory", "7MiB"}, "--model"},
      {{"tune", "--model", "."}, "--memory"},
      {with("--nonsense", "1"), "--nonsense"},
      {with("--limit", "-1"), "--limit"},
      {with("--limit", "many"), "--limit"},
      {with("--seeds", "0"), "--seeds"},
      {with("--context", "1"), "--context"},
      {with("--batch", "0"), "--batch"},
      {with("--tp", "0"), "--tp"},
      {with("--max-new-tokens", "0"), "--max-new-tokens"},
      {with("--candidates", "0"), "--candidates"},
      {with("--min-accuracy", "1.5"), "--min-accuracy"},
      {with("--mode", "v3"), "--mode"},
      {with("--kv-dtype", "f8"), "--kv-dtype"},
      {with("--strategy", "luck"), "--strategy"},
      {with("--headroom", "1000000"), "headroom"},
      {with("--shots", "3"), "--shots needs a file to draw them from"},
      {Tune({"--strict-min", "0.99", "--strict-max", "0.9"}), "lower bound"},
      {Tune({"--lazy-min", "0.99", "--lazy-max", "0.9"}), "lower bound"},
      {{"tune", "--model", fake_->model_dir(), "--memory", "1MB", "--db", db()},
       "no questions to ask: give --tasks"},
      {{"tune", "--model", "synthetic:x.json", "--memory", "1MB", "--tasks", fake_->tasks_path(), "--db", db()},
       "--tasks needs answers, and random weights answer no questions"},
      {{"tune", "--model", "synthetic:x.json", "--memory", "1MB", "--min-accuracy", "0.5", "--db", db()}, "--min-accuracy needs answers"},
      {{"tune", "--model", "synthetic:x.json", "--memory", "1MB", "--strategy", "walk", "--db", db()}, "--strategy walk needs answers"},
      {{"tune", "--model", "synthetic:x.json", "--memory", "1MB", "--baseline-int4", "--db", db()}, "a baseline needs answers"},
      {{"show", "--db", db()}, "trial"},
      {{"show", "-1", "--db", db()}, "trial"},
      {{"score"}, "--answers"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::PrintToString(c.arguments));
    ExpectRefusal(Run(c.arguments), kExitUsage, c.what);
  }
  EXPECT_FALSE(fs::exists(db())) << "nothing was begun";
}

TEST_F(CliRefusals, AMemoryCapThatIsNone) {
  for (const char* cap : {"0", "0MiB", "-7MiB", "lots", "", "7 parsecs", "1e30TiB", "nan"}) {
    ExpectRefusal(Run({"tune", "--model", fake_->model_dir(), "--tasks", fake_->tasks_path(),
                       "--db", db(), "--memory", cap}),
                  kExitUsage, "--memory");
  }
}

TEST_F(CliRefusals, FloorsOutsideZeroToOne) {
  for (const char* floor : {"0", "-0.5", "1.0001", "nan", "inf", "high", ""}) {
    for (const char* option :
         {"--strict-min", "--strict-max", "--lazy-min", "--lazy-max", "--head"}) {
      SCOPED_TRACE(std::string(option) + " " + floor);
      ExpectRefusal(Run(Tune({option, floor})), kExitUsage, option);
    }
    ExpectRefusal(Run({"plan", "--model", fake_->model_dir(), "--strict", floor, "--lazy", "0.9"}),
                  kExitUsage, "--strict");
  }
}

TEST_F(CliRefusals, AStudyThatIsNotThere) {
  ASSERT_EQ(Run(Tune({"--study", "here", "--limit", "20"})).exit_code, kExitDone);
  for (const std::string command : {"status", "trials", "frontier", "export", "report", "resume"}) {
    SCOPED_TRACE(command);
    ExpectRefusal(Run(On(command, {"--study", "there"})), kExitUsage, "no study \"there\"");
  }
  ExpectRefusal(Run(On("show", {"0", "--study", "there"})), kExitUsage, "no study \"there\"");
}

TEST_F(CliRefusals, AStudyNameNobodyCouldReadIsRefusedBeforeTheCheckpointIsRead) {
  ExpectRefusal(Run(Tune({"--study", "two\nlines"})), kExitUsage, "study name: holds a control character");
  EXPECT_FALSE(fs::exists(db() + ".rates")) << "the rate table was made first";
}

TEST_F(CliRefusals, AStudyThatIsThereAlready) {
  ASSERT_EQ(Run(Tune({"--study", "here", "--limit", "20"})).exit_code, kExitDone);
  ExpectRefusal(Run(Tune({"--study", "here"})), kExitUsage,
                "study \"here\" is there already; go on with hproc resume");
}

TEST_F(CliRefusals, ATrialThatIsNotThere) {
  ASSERT_EQ(Run(Tune({"--study", "here", "--limit", "20"})).exit_code, kExitDone);
  ExpectRefusal(Run(On("show", {"999"})), kExitUsage, "study \"here\" has no trial 999");
  ExpectRefusal(Run(On("export", {"--trial", "999"})), kExitUsage,
                "study \"here\" has no trial 999");
}

// ---- infrastructure: 4 ----

TEST_F(CliRefusals, AModelFolderThatIsNotThere) {
  const std::string gone = fake_->File("gone");
  ExpectRefusal(Run({"tune", "--model", gone, "--memory", "7MiB", "--tasks", fake_->tasks_path(),
                     "--db", db()}),
                kExitInfrastructure, gone + ": no such folder");
  ExpectRefusal(Run(Plan(gone)), kExitInfrastructure, gone + ": no such folder");
  ExpectRefusal(Run(Plan(fake_->tasks_path())), kExitInfrastructure, ": no such folder");
}

TEST_F(CliRefusals, AWorkerThatIsNotThere) {
  const Command::Options options{.environment = {"HPROC_WORKER=/no/such/worker"},
                                 .stdout_file = {}};
  ExpectRefusal(Command(Tune(), options).Wait(), kExitInfrastructure, "/no/such/worker");
}

TEST_F(CliRefusals, AShardThatIsCutOff) {
  const std::string checkpoint = Checkpoint();
  const std::string shard = checkpoint + "/model.safetensors";
  const auto size = fs::file_size(shard);
  for (const auto left : {size - 1, size / 2, uintmax_t{100}, uintmax_t{4}, uintmax_t{0}}) {
    fs::resize_file(shard, left);
    const Finished finished = Command(Plan(checkpoint), WithRealWorker()).Wait();
    ExpectFailure(finished, kExitInfrastructure, "model.safetensors");
    EXPECT_THAT(finished.err, testing::Not(HasSubstr("SIG"))) << left;
  }
  ExpectFailure(Command({"tune", "--model", checkpoint, "--memory", "7MiB", "--tasks",
                         fake_->tasks_path(), "--db", db()},
                        WithRealWorker())
                    .Wait(),
                kExitInfrastructure, "model.safetensors");
  ExpectRefusal(Run(On("trials")), kExitUsage, "no study yet");
}

TEST_F(CliRefusals, AnArchitectureThatIsNotKnown) {
  const std::string checkpoint = Checkpoint();
  const std::string config = *ReadFile(checkpoint + "/config.json", 1 << 20);
  auto changed = nlohmann::json::parse(config);
  changed["model_type"] = "mamba_9000";
  changed["architectures"] = {"Mamba9000ForCausalLM"};
  ASSERT_TRUE(WriteFileAtomically(checkpoint + "/config.json", changed.dump()).ok());
  ExpectFailure(Command(Plan(checkpoint), WithRealWorker()).Wait(), kExitInfrastructure,
                "mamba_9000");
  for (const char* broken : {"", "{", "[]", "{\"model_type\": 7}"}) {
    ASSERT_TRUE(WriteFileAtomically(checkpoint + "/config.json", broken).ok());
    ExpectFailure(Command(Plan(checkpoint), WithRealWorker()).Wait(), kExitInfrastructure,
                  "config.json");
  }
}

TEST_F(CliRefusals, QuestionsThatCannotBeRead) {
  const std::string tasks = fake_->File("broken.jsonl");
  const auto tune = [&] {
    return Run(
        {"tune", "--model", fake_->model_dir(), "--memory", "1MB", "--tasks", tasks, "--db", db()});
  };
  ExpectRefusal(tune(), kExitInfrastructure, "broken.jsonl");
  ASSERT_TRUE(WriteFileAtomically(tasks, "{\"question\": \"Why?\"}\n").ok());
  ExpectRefusal(tune(), kExitInfrastructure, "broken.jsonl");
  EXPECT_FALSE(fs::exists(db()));
}

TEST_F(CliRefusals, AStudyFileThatCannotBeWritten) {
  const auto tune = [&](const std::string& file) {
    return Run({"tune", "--model", fake_->model_dir(), "--memory", "1MB", "--tasks",
                fake_->tasks_path(), "--db", file});
  };
  ExpectRefusal(tune(fake_->File("no/such/folder/study.db")), kExitInfrastructure,
                "no/such/folder/study.db");
  ExpectRefusal(tune(fake_->File("")), kExitInfrastructure, fake_->File(""));
  ExpectRefusal(tune("/proc/study.db"), kExitInfrastructure, "/proc/study.db");
  const std::string before = *ReadFile(fake_->tasks_path(), 1 << 20);
  ExpectRefusal(tune(fake_->tasks_path()), kExitInfrastructure, "tasks.jsonl");
  EXPECT_EQ(*ReadFile(fake_->tasks_path(), 1 << 20), before) << "another's file stays as it is";
}

TEST_F(CliRefusals, AStudyFileThatIsNotThere) {
  for (const std::string command : {"status", "trials", "frontier", "export", "report"}) {
    ExpectRefusal(Run(On(command)), kExitInfrastructure, "study.db");
  }
  ExpectRefusal(Run(On("show", {"0"})), kExitInfrastructure, "study.db");
  EXPECT_FALSE(fs::exists(db())) << "looking makes no file";
}

TEST_F(CliRefusals, AnOperatingPointThatIsBroken) {
  const std::string file = fake_->File("operating_point.json");
  ExpectRefusal(Run({"verify", file}), kExitInfrastructure, "operating_point.json");
  for (const std::string& text :
       {std::string(), std::string("{}"), std::string("{\"schema_version\": 1}"),
        std::string(100'000, '[')}) {
    ASSERT_TRUE(WriteFileAtomically(file, text).ok());
    ExpectRefusal(Run({"verify", file}), kExitInfrastructure, "operating_point.json: ");
  }
}

}  // namespace
}  // namespace hproc::controller
