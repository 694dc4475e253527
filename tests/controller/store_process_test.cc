// One writer, many readers, and kill -9: what holds between processes.

#include <gmock/gmock.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "controller/database.h"
#include "controller/study_json.h"
#include "tests/controller/processes.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;

// ---- readers beside a writer -------------------------------------------------------------------

// Reads all trials until told to stop; every one of every read is whole, and none that was finished
// changes.
void ReadUntil(const std::atomic<bool>& stop, const fs::path& path, std::atomic<int>& reads) {
  const std::unique_ptr<Store> store = OpenSqliteStore(path, OpenMode::kReadOnly).value();
  size_t finished_before = 0;
  while (!stop) {
    const Result<std::vector<Trial>> trials = store->ListTrials(1);
    ASSERT_TRUE(trials.ok()) << trials.error().message;
    size_t finished = 0;
    for (const Trial& trial : *trials) {
      ASSERT_EQ(WhyNotWhole(trial), "");
      if (!trial.finished_utc.empty()) ++finished;
    }
    ASSERT_GE(finished, finished_before);
    finished_before = finished;
    ++reads;
  }
}

TEST(StoreReaders, AlwaysSeeWholeTrialsWhileAWriterWritesThousandsOfRows) {
  constexpr int kTrials = 120;
  constexpr int kAnswers = 25;
  const TestFolder folder;
  const fs::path path = folder / "study.db";
  const std::unique_ptr<Store> writer = OpenSqliteStore(path, OpenMode::kReadWrite).value();
  const int64_t study = writer->CreateStudy(ExampleSpec("study")).value().id;
  Helper other_process({"read", path.string()});
  ASSERT_EQ(other_process.ReadLine(), "reading");
  std::atomic<bool> stop = false;
  std::atomic<int> reads = 0;
  {
    std::vector<std::jthread> readers;
    for (int i = 0; i < 2; ++i) readers.emplace_back([&] { ReadUntil(stop, path, reads); });
    for (int n = 0; n < kTrials; ++n) {
      const Trial trial = writer->AddTrial(study, ExamplePlan(n)).value();
      EXPECT_TRUE(writer->StartAttempt(trial.id, "log").ok());
      EXPECT_TRUE(writer->AddAnswers(trial.id, ExampleAnswers(n, 0, kAnswers)).ok());
      const Result<void> finished =
          writer->FinishTrial(trial.id, ExampleState(n), ExampleVerdict(n), ExampleMeasurements(n));
      EXPECT_TRUE(finished.ok()) << finished.error().message;
    }
    while (reads < 4 && !HasFailure()) std::this_thread::yield();
    stop = true;
  }
  other_process.CloseInput();
  EXPECT_GT(std::stoi(other_process.ReadLine().value_or("0")), 0);
  EXPECT_EQ(other_process.Wait(), 0);
  EXPECT_EQ(writer->ListTrials(study)->size(), static_cast<size_t>(kTrials));
}

// ---- kill -9 -----------------------------------------------------------------------------------

// What the helper said had returned, over all of its lives.
struct Returned {
  int added = -1;     // the highest number
  int finished = -1;  // likewise: it finishes them in order
  bool study = false;
  std::map<int, int> attempts;  // by trial, how many
  std::map<int, int> answers;   // by trial, how many

  void Note(const std::string& line) {
    const size_t first = line.find(' ');
    const size_t second = line.find(' ', first + 1);
    const std::string what = line.substr(0, first);
    const int n = std::stoi(line.substr(first + 1, second - first - 1));
    const int count = std::stoi(line.substr(second + 1));
    if (what == "study") study = true;
    if (what == "added") added = n;
    if (what == "finished") finished = n;
    if (what == "attempt") attempts[n] = count;
    if (what == "answers") answers[n] = std::max(answers[n], count);
  }
};

void ExpectSoundFile(const fs::path& path) {
  Database database(path, Database::Access::kReadWrite);
  EXPECT_EQ(database.QueryText("PRAGMA integrity_check"), "ok");
  EXPECT_FALSE(database.Prepare("PRAGMA foreign_key_check").Step());
}

// `finished` holds what finished trials looked like after earlier kills.
void ExpectAllThatReturned(Store& store, const Returned& returned,
                           std::map<int, std::string>& finished) {
  const std::optional<Study> study = store.FindStudy("study").value();
  ASSERT_EQ(study.has_value() || !returned.study, true) << "the study is gone";
  if (!study) return;
  EXPECT_EQ(study->spec, ExampleSpec("study"));
  const std::vector<Trial> trials = store.ListTrials(study->id).value();
  ASSERT_GT(static_cast<int>(trials.size()), returned.added);
  for (const Trial& trial : trials) {
    const int n = trial.number;
    EXPECT_EQ(WhyNotWhole(trial), "");
    if (n <= returned.finished) {
      EXPECT_FALSE(trial.finished_utc.empty()) << n;
    }
    if (returned.attempts.contains(n)) {
      EXPECT_GE(static_cast<int>(trial.attempts.size()), returned.attempts.at(n)) << n;
    }
    if (trial.finished_utc.empty()) continue;
    const auto [kept, is_new] = finished.try_emplace(n, ToJson(trial));
    EXPECT_EQ(kept->second, ToJson(trial)) << "a finished trial changed";
  }
  for (const auto& [n, count] : returned.answers) {
    if (n + 3 < returned.added) continue;  // looked at after earlier kills
    const std::vector<Answer> answers =
        store.ListAnswers(trials[static_cast<size_t>(n)].id).value();
    ASSERT_GE(static_cast<int>(answers.size()), count) << n;
    EXPECT_EQ(answers, ExampleAnswers(n, 0, static_cast<int>(answers.size())));
  }
}

// Lets the helper write to `path` and kills it `delay` after its `lines`th word, or after its start
// where that is 0. Words, not time, so that it gets equally far on a slow disk.
void WriteAndKill(const fs::path& path, int lines, std::chrono::microseconds delay,
                  Returned& returned) {
  Helper helper({"write", path.string()});
  for (int i = 0; i < lines; ++i) {
    const std::optional<std::string> line = helper.ReadLine();
    ASSERT_TRUE(line.has_value()) << "the writer ended by itself";
    returned.Note(*line);
  }
  std::this_thread::sleep_for(delay);
  helper.Kill();
  while (const std::optional<std::string> line = helper.ReadLine()) returned.Note(*line);
}

TEST(StoreKill, LosesNothingThatReturnedAndChangesNothingThatWasFinished) {
  const int kills = TortureKills(30);
  const TestFolder folder;
  const fs::path path = folder / "study.db";
  std::mt19937 random(20260102);
  Returned returned;
  std::map<int, std::string> finished;
  for (int kill = 0; kill < kills; ++kill) {
    SCOPED_TRACE(kill);
    const int lines = kill % 6 == 0 ? 0 : 1 + static_cast<int>(random() % 40);
    const auto delay = std::chrono::microseconds(random() % (lines == 0 ? 20'000 : 2'000));
    ASSERT_NO_FATAL_FAILURE(WriteAndKill(path, lines, delay, returned));
    {
      const auto store = OpenSqliteStore(path, OpenMode::kReadWrite);
      ASSERT_TRUE(store.ok()) << store.error().message;
      ExpectAllThatReturned(**store, returned, finished);
    }
    ExpectSoundFile(path);
    if (HasFailure()) break;
  }
  EXPECT_GT(returned.finished, kills) << "killed too early to mean anything";
}

TEST(StoreKill, LeavesAFileThatOpensWhereItHitsTheCreation) {
  constexpr int kKills = 12;
  std::mt19937 random(4);
  for (int kill = 0; kill < kKills; ++kill) {
    SCOPED_TRACE(kill);
    const TestFolder folder;
    const fs::path path = folder / "study.db";
    Returned returned;
    std::map<int, std::string> finished;
    const auto delay = std::chrono::microseconds(random() % 8'000);
    ASSERT_NO_FATAL_FAILURE(WriteAndKill(path, 0, delay, returned));
    const auto store = OpenSqliteStore(path, OpenMode::kReadWrite);
    ASSERT_TRUE(store.ok()) << store.error().message;
    ExpectAllThatReturned(**store, returned, finished);
  }
}

}  // namespace
}  // namespace hproc::controller
