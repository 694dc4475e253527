// A study killed at random, controller or worker or both, again and again, until it is done: it ends as one that was left
// in peace, and nothing it had finished is lost, changed or done twice.
#include <signal.h>

#include <map>
#include <random>
#include <set>

#include "controller/database.h"
#include "controller/study_json.h"
#include "tests/controller/cli/cli_fixture.h"
#include "tests/controller/processes.h"

namespace hproc::controller {
namespace {

using std::chrono::steady_clock;
using testing::IsEmpty;

// By the number of trials in flight.
class TortureTest : public CliTest, public testing::WithParamInterface<int> {
 protected:
  const std::string mark_ = "HPROC_TEST_MARK=torture_" + std::to_string(::getpid());

  std::string DbOf(int study) const { return fake_->File("study" + std::to_string(study) + ".db"); }
  std::vector<std::string> Begin(const std::string& db) const {
    return {"tune",      "--model", fake_->model_dir(), "--memory", "1000000",    "--tasks",        fake_->tasks_path(),
            "--context", "128",     "--db",             db,         "--baseline-16bit", "--candidates", "3",
            "--parallel", std::to_string(GetParam())};
  }
  Command::Options Options() const {
    Command::Options options = WithFakeWorker();
    options.environment.push_back(mark_);
    return options;
  }

  // What the file holds, checked: sound, and all that was seen in it before is in it still.
  struct Seen {
    bool has_study = false;
    std::map<int, std::string> finished;    // trials, as JSON
    std::map<int, std::vector<Answer>> answers;  // stored so far, by trial
    std::map<int, int> kills;  // attempts that ended so, by trial
  };
  static void Look(const std::string& db, Seen& seen) {
    if (!std::filesystem::exists(db)) {
      EXPECT_FALSE(seen.has_study);
      return;
    }
    const auto store = OpenSqliteStore(db, OpenMode::kReadWrite);
    ASSERT_TRUE(store.ok()) << store.error().message;
    const std::vector<Study> studies = *(*store)->ListStudies();
    ASSERT_TRUE(studies.size() == 1 || (studies.empty() && !seen.has_study));
    if (studies.empty()) return;
    seen.has_study = true;
    const std::vector<Trial> trials = *(*store)->ListTrials(studies[0].id);
    for (const Trial& trial : trials) {
      std::vector<Answer> answers = *(*store)->ListAnswers(trial.id);
      std::vector<Answer>& before = seen.answers[trial.number];
      for (const Answer& answer : before) EXPECT_THAT(answers, testing::Contains(answer)) << "lost, or changed";
      before = std::move(answers);
      int& kills = seen.kills[trial.number] = 0;
      for (const Attempt& attempt : trial.attempts) kills += attempt.verdict.reason == Reason::kKilled ? 1 : 0;
      if (trial.finished_utc.empty()) continue;
      const auto [kept, is_new] = seen.finished.try_emplace(trial.number, ToJson(trial));
      EXPECT_EQ(kept->second, ToJson(trial)) << "a finished trial changed";
    }
    ASSERT_GE(trials.size(), seen.finished.size()) << "a finished trial is gone";
    Database database(db, Database::Access::kReadWrite);
    EXPECT_EQ(database.QueryText("PRAGMA integrity_check"), "ok");
    EXPECT_FALSE(database.Prepare("PRAGMA foreign_key_check").Step());
  }
};

TEST_P(TortureTest, AStudyKilledAtRandomEndsAsOneThatWasLeftInPeace) {
  nlohmann::json model = kSloping;
  model["garbage_below"] = {{"strict", 0.9}};
  Play({.questions = 60, .settings = model});
  const auto trials_of = [](const std::string& db) {
    const auto store = *OpenSqliteStore(db, OpenMode::kReadOnly);
    return *store->ListTrials(store->ListStudies()->front().id);
  };
  const auto begin = steady_clock::now();
  const Finished peaceful = Command(Begin(DbOf(0)), Options()).Wait();
  const auto length = steady_clock::now() - begin;
  ASSERT_EQ(peaceful.exit_code, 0) << peaceful.err;
  const std::vector<std::string> reference = Substance(trials_of(DbOf(0)));

  std::mt19937 random(20261126);
  const int kills_asked_for = TortureKills(GetParam() == 1 ? 60 : 30);
  int kills = 0;
  int worker_kills = 0;
  for (int study = 1; kills < kills_asked_for; ++study) {
    SCOPED_TRACE(study);
    const std::string db = DbOf(study);
    Seen seen;
    for (;;) {
      Command command(seen.has_study ? std::vector<std::string>{"resume", "--db", db} : Begin(db), Options());
      const auto delay = std::chrono::duration_cast<std::chrono::microseconds>(length) * (random() % 1000) / 2000;
      std::this_thread::sleep_for(delay);
      const std::vector<pid_t> workers = ChildrenOf(command.pid());
      // A worker alone, now and then, and no trial's twice: a third kill would be taken for a fault of the machine.
      const bool may_spare = std::ranges::all_of(seen.kills, [](const auto& trial) { return trial.second < 2; });
      const bool spare = may_spare && !workers.empty() && random() % 4 == 0;
      const bool both = random() % 2 == 0;
      if (!spare) command.Signal(SIGKILL);  // first: it must not see the workers die
      if (spare || both) {
        for (const pid_t worker : workers) ::kill(worker, SIGKILL);
        worker_kills += spare ? static_cast<int>(workers.size()) : 0;
      }
      const Finished end = command.Wait();
      ASSERT_THAT(MarkedAfterAWhile(mark_), IsEmpty()) << "left behind";
      ASSERT_NO_FATAL_FAILURE(Look(db, seen));
      if (end.exit_code == 0) {
        kills += spare ? 1 : 0;
        break;
      }
      ++kills;
      ASSERT_EQ(end.exit_code, spare ? 0 : 128 + SIGKILL) << end.err;
      ASSERT_FALSE(HasFailure()) << "after kill " << kills;
    }
    if (GetParam() == 1) {
      EXPECT_EQ(Substance(trials_of(db)), reference);
      continue;
    }
    // What is looked at depends on the order in which trials end; that no plan is run twice does not.
    std::set<std::string> plans;
    for (const Trial& trial : trials_of(db)) {
      EXPECT_TRUE(plans.insert(TrialKindName(trial.plan.kind).data() + trial.plan.plan_digest).second);
      EXPECT_FALSE(trial.finished_utc.empty());
    }
  }
  RecordProperty("kills", kills);
  RecordProperty("worker_kills", worker_kills);
  EXPECT_GT(worker_kills, kills / 20) << "workers were hardly ever killed alone";
}

INSTANTIATE_TEST_SUITE_P(InFlight, TortureTest, testing::Values(1, 3));

}  // namespace
}  // namespace hproc::controller
