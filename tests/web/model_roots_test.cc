#include "web/model_roots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/controller/store_testing.h"
#include "web/start_arguments.h"

namespace hproc::web {
namespace {

namespace fs = std::filesystem;
using controller::ErrorOf;
using testing::ElementsAre;
using testing::HasSubstr;

class ModelRootsTest : public testing::Test {
 protected:
  ModelRootsTest() {
    for (const char* folder : {"models/a", "models/deep/b", "models/.hidden/c", "outside"}) fs::create_directories(folder_ / folder);
    for (const char* file : {"models/a/config.json", "models/deep/b/config.json", "models/.hidden/c/config.json",
                             "outside/config.json", "models/questions.jsonl"}) {
      std::ofstream(folder_ / file) << "{}";
    }
    std::ofstream(folder_ / "models/a/model.safetensors") << "12345";
    fs::create_symlink(folder_ / "outside", folder_ / "models/link");
    fs::create_symlink(folder_ / "models", folder_ / "models/loop");
    roots_ = *ModelRoots::Create({folder_ / "models"});
  }

  controller::TestFolder folder_;
  ModelRoots roots_;
};

TEST_F(ModelRootsTest, ListsTheCheckpointsOfItsFolders) {
  std::vector<std::string> names;
  for (const ModelRoots::Model& model : roots_.Models()) names.push_back(fs::path(model.path).filename());
  EXPECT_THAT(names, ElementsAre("a", "b"));
  EXPECT_EQ(roots_.Models()[0].bytes, 5);
}

TEST_F(ModelRootsTest, TakesWhatLiesInside) {
  EXPECT_EQ(*roots_.Folder("a"), fs::canonical(folder_ / "models/a"));
  EXPECT_EQ(*roots_.Folder((folder_ / "models/deep/b").string()), fs::canonical(folder_ / "models/deep/b"));
  EXPECT_EQ(*roots_.Folder("a/../deep/b"), fs::canonical(folder_ / "models/deep/b"));
  EXPECT_TRUE(roots_.File("questions.jsonl").ok());
  EXPECT_EQ(*roots_.ModelName("a"), fs::canonical(folder_ / "models/a"));
  EXPECT_EQ(*roots_.ModelName("synthetic:a/config.json"), "synthetic:" + fs::canonical(folder_ / "models/a/config.json").string());
}

TEST_F(ModelRootsTest, RefusesWhatLiesOutsideAndDoesNotTellWhatIsThere) {
  for (const std::string& name : {std::string("../outside"), (folder_ / "outside").string(), std::string("link"),
                                  std::string("/etc"), std::string("/nonexistent"), std::string("../models2"), std::string(),
                                  std::string("a\0b", 3), std::string(5000, 'a'), std::string("a/../../outside")}) {
    EXPECT_THAT(ErrorOf(roots_.Folder(name)), HasSubstr("not in a folder that hproc serve was given")) << name;
  }
  EXPECT_THAT(ErrorOf(roots_.File("/etc/passwd")), HasSubstr("not in a folder"));
  EXPECT_THAT(ErrorOf(roots_.File("a")), HasSubstr("not a file"));
  EXPECT_THAT(ErrorOf(roots_.ModelName("synthetic:/etc/passwd")), HasSubstr("not in a folder"));
  EXPECT_THAT(ErrorOf(roots_.ModelName("synthetic:link/config.json")), HasSubstr("not in a folder"));
  EXPECT_THAT(ErrorOf(roots_.ModelName("synthetic:a")), HasSubstr("not a file"));
  EXPECT_THAT(ErrorOf(ModelRoots().Folder("a")), HasSubstr("not in a folder")) << "without roots there is nothing";
}

TEST_F(ModelRootsTest, NamesARootThatIsNotThere) {
  EXPECT_THAT(ErrorOf(ModelRoots::Create({"/nonexistent/models"})), HasSubstr("/nonexistent/models: no such folder"));
}

// ---- what the browser may ask of a search ----

TEST_F(ModelRootsTest, StartArgumentsAreTunesOptions) {
  const Result<std::vector<std::string>> arguments = StartArguments(
      R"({"model": "a", "memory": "17MiB", "batch": 8, "strict_min": 0.9, "trust_plan": true, "baseline_int4": false,
          "tasks": "questions.jsonl", "study": "-rf"})",
      roots_);
  ASSERT_TRUE(arguments.ok()) << ErrorOf(arguments);
  EXPECT_THAT(*arguments, ElementsAre("--batch=8", "--memory=17825792", "--model=" + fs::canonical(folder_ / "models/a").string(),
                                      "--strict-min=0.9", "--study=-rf",
                                      "--tasks=" + fs::canonical(folder_ / "models/questions.jsonl").string(), "--trust-plan"));
}

TEST_F(ModelRootsTest, StartArgumentsRefuseByName) {
  const auto error = [&](const std::string& body) { return ErrorOf(StartArguments(body, roots_)); };
  EXPECT_EQ(error("nonsense"), "expected a JSON object");
  EXPECT_EQ(error("[]"), "expected a JSON object");
  EXPECT_EQ(error(R"({"memory": "1MiB"})"), "model: missing");
  EXPECT_EQ(error(R"({"model": "a"})"), "memory: missing");
  EXPECT_THAT(error(R"({"model": "../outside", "memory": "1MiB"})"), HasSubstr("model: not in a folder"));
  EXPECT_THAT(error(R"({"model": "a", "memory": "much"})"), HasSubstr("memory: "));
  EXPECT_EQ(error(R"({"model": "a", "memory": "1MiB", "batch": "8"})"), "batch: expected a whole number");
  EXPECT_EQ(error(R"({"model": "a", "memory": "1MiB", "batch": 1.5})"), "batch: expected a whole number");
  EXPECT_EQ(error(R"({"model": "a", "memory": "1MiB", "trust_plan": 1})"), "trust_plan: expected true or false");
  EXPECT_EQ(error(R"({"model": "a", "memory": "1MiB", "db": "/etc/x"})"), "db: not known here");
  EXPECT_EQ(error(R"({"model": "a", "memory": "1MiB", "export_path": "/etc/x"})"), "export_path: not known here");
  EXPECT_THAT(error("{\"model\": \"a\", \"memory\": \"1MiB\", \"study\": \"a\\nb\"}"), HasSubstr("study: expected one line"));
  EXPECT_THAT(error(R"({"model": "a", "memory": "1MiB", "tasks": "/etc/passwd"})"), HasSubstr("tasks: not in a folder"));
}

}  // namespace
}  // namespace hproc::web
