// store_helper: what the tests of the store do in a process of its own. Reports on stdout, a line
// for each call that returned.
//
//   hold DB         opens DB for writing, prints "holding", keeps it until stdin ends
//   idle            prints "idle" and does nothing until stdin ends
//   write DB        finishes example trials, first those left unfinished, until it is killed
//   read DB         reads DB until stdin ends, then prints how often; exits 1 on a trial not whole
//   make-schema DB  writes the database of tests/data/schema (schema_fixture.h)

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "tests/controller/schema_fixture.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

constexpr int kAnswersPerBatch = 8;
constexpr int kBatches = 3;

// One write for a line: a killed process leaves whole lines of what returned, and nothing of what
// did not.
void Say(std::string line) {
  line += '\n';
  if (::write(STDOUT_FILENO, line.data(), line.size()) < 0) std::exit(3);
}

template <typename T>
T OrExit(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "store_helper: %s\n", result.error().message.c_str());
    std::exit(1);
  }
  return *std::move(result);
}
void OrExit(const Result<void>& result) {
  if (result) return;
  std::fprintf(stderr, "store_helper: %s\n", result.error().message.c_str());
  std::exit(1);
}

bool InputEnded(int wait_ms) {
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  return ::poll(&input, 1, wait_ms) > 0;
}

void Finish(Store& store, const Trial& trial) {
  const int n = trial.number;
  const std::string who = std::to_string(n);
  const int attempt = OrExit(store.StartAttempt(trial.id, "log " + who));
  Say("attempt " + who + " " + std::to_string(attempt));
  for (int batch = 0; batch < kBatches; ++batch) {
    const int first = batch * kAnswersPerBatch;
    OrExit(store.AddAnswers(trial.id, ExampleAnswers(n, first, kAnswersPerBatch)));
    Say("answers " + who + " " + std::to_string(first + kAnswersPerBatch));
  }
  OrExit(store.FinishTrial(trial.id, ExampleState(n), ExampleVerdict(n), ExampleMeasurements(n)));
  Say("finished " + who + " 0");
}

[[noreturn]] void Write(const char* path) {
  const std::unique_ptr<Store> store = OrExit(OpenSqliteStore(path, OpenMode::kReadWrite));
  Say("opened 0 0");
  std::optional<Study> study = OrExit(store->FindStudy("study"));
  if (!study) study = OrExit(store->CreateStudy(ExampleSpec("study")));
  Say("study 0 0");
  const std::vector<Trial> trials = OrExit(store->ListTrials(study->id));
  for (const Trial& trial : trials) {
    if (trial.finished_utc.empty()) Finish(*store, trial);
  }
  for (int n = static_cast<int>(trials.size());; ++n) {
    const Trial trial = OrExit(store->AddTrial(study->id, ExamplePlan(n)));
    Say("added " + std::to_string(n) + " 0");
    Finish(*store, trial);
  }
}

int Read(const char* path) {
  const std::unique_ptr<Store> store = OrExit(OpenSqliteStore(path, OpenMode::kReadOnly));
  int reads = 0;
  while (!InputEnded(0)) {
    for (const Study& study : OrExit(store->ListStudies())) {
      for (const Trial& trial : OrExit(store->ListTrials(study.id))) {
        if (const std::string why = WhyNotWhole(trial); !why.empty()) {
          std::fprintf(stderr, "store_helper: %s\n", why.c_str());
          return 1;
        }
      }
    }
    if (++reads == 1) Say("reading");
  }
  Say(std::to_string(reads));
  return 0;
}

int Main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "hold" && argc == 3) {
    const std::unique_ptr<Store> store = OrExit(OpenSqliteStore(argv[2], OpenMode::kReadWrite));
    Say("holding");
    while (!InputEnded(-1)) {
    }
    return 0;
  }
  if (what == "idle") {
    Say("idle");
    while (!InputEnded(-1)) {
    }
    return 0;
  }
  if (what == "write" && argc == 3) Write(argv[2]);
  if (what == "read" && argc == 3) return Read(argv[2]);
  if (what == "make-schema" && argc == 3) {
    OrExit(WriteSchemaFixture(argv[2]));
    return 0;
  }
  std::fprintf(stderr, "usage: store_helper hold|write|read|make-schema DB, or idle\n");
  return 2;
}

}  // namespace
}  // namespace hproc::controller

int main(int argc, char** argv) { return hproc::controller::Main(argc, argv); }
