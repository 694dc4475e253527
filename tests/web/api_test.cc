// The API's answers, and a search begun, watched, paused, resumed and exported through it.
#include "web/api.h"

#include <signal.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "controller/operating_point.h"
#include "controller/tune_journal.h"
#include "tests/controller/processes.h"
#include "tests/web/schema_check.h"
#include "tests/web/service_fixture.h"
#include "web/assets.h"
#include "web/start_arguments.h"

namespace hproc::web {
namespace {

using controller::TrialState;
using nlohmann::json;
using testing::HasSubstr;

class ApiTest : public ServiceTest {
 protected:
  std::string StartBody(json more = json::object()) const {
    json body = {{"model", fake_.model_dir()}, {"memory", 1'000'000}, {"tasks", fake_.tasks_path()}, {"context", 128}};
    body.update(more);
    return body.dump();
  }
  bool IsIdle() { return !GetJson("/api/v1/state")["running"].get<bool>(); }
  // Asks every GET route of the description, its {…} put in and by its last part the query, and says where the answer is not
  // what is described.
  std::vector<std::string> DescriptionFaults(const std::map<std::string, std::string>& parts,
                                             const std::map<std::string, std::string>& queries) {
    const json api = json::parse(OpenApi());
    std::vector<std::string> faults;
    for (const auto& [path, methods] : api["paths"].items()) {
      if (!methods.contains("get") || path == "/api/v1/events") continue;
      std::string target = path;
      for (const auto& [part, value] : parts) {
        if (const size_t at = target.find(part); at != std::string::npos) target.replace(at, part.size(), value);
      }
      if (const auto query = queries.find(path.substr(path.rfind('/') + 1)); query != queries.end()) target += query->second;
      const Reply reply = Get(target);
      const json& described = methods["get"]["responses"]["200"]["content"];
      const std::string type = reply.headers.contains("content-type") ? reply.headers.at("content-type") : std::string();
      if (reply.status != 200) {
        faults.push_back(target + ": " + std::to_string(reply.status) + " " + reply.body);
      } else if (!type.starts_with(described.begin().key())) {
        faults.push_back(target + ": is " + type);
      } else if (type == "application/json") {
        const std::string fault = SchemaFault(json::parse(reply.body), described.begin().value().at("schema"), api);
        if (!fault.empty()) faults.push_back(target + ": " + fault);
      }
    }
    return faults;
  }
  // The worker blocks at the step; `marker` is there once it does.
  void BlockAt(const std::string& step) {
    fake_.SetScript({{step, {{{"do", "write_file"}, {"file", fake_.File("blocked")}, {"text", "here"}}, {{"do", "hang"}}}}});
  }
  // A shell script in hproc's place.
  std::filesystem::path WriteProgram(const std::string& script) const {
    const std::filesystem::path file = fake_.File("program");
    std::ofstream(file) << "#!/bin/sh\n" << script << "\n";
    std::filesystem::permissions(file, std::filesystem::perms::owner_all);
    return file;
  }
  bool IsBlocked() const { return std::filesystem::exists(fake_.File("blocked")); }
};

// ---- reading ----

TEST_F(ApiTest, GivesTheShapesOfTheCommandLine) {
  WriteExamples(4);
  Start();
  const json studies = GetJson("/api/v1/studies");
  ASSERT_EQ(studies.size(), 1U);
  EXPECT_EQ(studies[0]["id"], 1);
  EXPECT_EQ(studies[0]["trials"]["complete"], 2);
  const json study = GetJson("/api/v1/studies/1");
  EXPECT_EQ(study["spec"]["name"], "demo");
  EXPECT_TRUE(study["has_lazy"].is_null()) << "not measured";
  const json trials = GetJson("/api/v1/studies/1/trials");
  ASSERT_EQ(trials.size(), 4U);
  EXPECT_FALSE(trials[0].contains("plan"));
  const json trial = GetJson("/api/v1/studies/1/trials/0");
  EXPECT_EQ(trial["trial"], 0);
  EXPECT_TRUE(trial.contains("answers"));
  EXPECT_TRUE(trial["plan"].is_object()) << "with its plan";
  EXPECT_EQ(GetJson("/api/v1/ladder").size(), static_cast<size_t>(quant::kLadderSize));
}

TEST_F(ApiTest, SaysWhatIsNotThere) {
  WriteExamples(1);
  Start();
  for (const char* target : {"/api/v1/studies/2", "/api/v1/studies/x", "/api/v1/studies/-1", "/api/v1/studies/1/trials/1",
                             "/api/v1/studies/1/nothing", "/api/v1/nothing", "/api/v1/", "/api/v2/studies", "/api/v1/studies/1/trials/0/x",
                             "/api/v1/studies/99999999999999999999"}) {
    const Reply reply = Get(target);
    EXPECT_EQ(reply.status, 404) << target;
    EXPECT_TRUE(json::parse(reply.body).contains("error")) << target;
  }
  EXPECT_EQ(Get("/api/v1/studies/1/frontier").status, 409) << "not measured";
  EXPECT_EQ(Get("/api/v1/studies/1/compare?a=0&b=7").status, 422);
  EXPECT_EQ(Get("/api/v1/studies/1/plan?strict=2&lazy=0.5").status, 422);
}

TEST_F(ApiTest, AnswersEveryDescribedChangeAndNoOther) {
  WriteExamples(1);
  Start();
  const json api = json::parse(OpenApi());
  for (const auto& [path, methods] : api["paths"].items()) {
    std::string target = path;
    for (const char* part : {"{id}", "{trial}", "{search}"}) {
      // The study is there, so that the answer is of the route; no such trial or waiting search is.
      const std::string value = std::string_view(part) == "{id}" ? "1" : "99";
      if (const size_t at = target.find(part); at != std::string::npos) target.replace(at, std::string(part).size(), value);
    }
    const Reply reply = Post(target, "[]");
    const int status = reply.status;
    if (methods.contains("post")) {
      EXPECT_TRUE(methods["post"]["responses"].contains(std::to_string(status))) << path << " answers " << status;
      EXPECT_THAT(reply.body, testing::Not(HasSubstr("there is nothing of that name"))) << path;
      if (path.ends_with("/withdraw")) {
        EXPECT_THAT(reply.body, HasSubstr("no such search waits"));
      }
    } else {
      EXPECT_TRUE(status == 404 || status == 405) << path << " takes a change: " << status;
    }
  }
}

TEST_F(ApiTest, SeesWhatOthersWrite) {
  Start();
  EXPECT_EQ(GetJson("/api/v1/studies").size(), 0U);
  WriteExamples(2);
  EXPECT_EQ(GetJson("/api/v1/studies").size(), 1U);
  {
    auto store = *OpenSqliteStore(db(), controller::OpenMode::kReadWrite);
    ASSERT_TRUE(AddFinishedTrial(*store, 1, 2).ok());
    EXPECT_EQ(GetJson("/api/v1/studies/1/trials").size(), 3U) << "while it is being written";
    EXPECT_EQ(GetJson("/api/v1/state")["running"], true);
  }
  EXPECT_EQ(GetJson("/api/v1/state")["running"], false);
}

TEST_F(ApiTest, DescribesEveryRouteItHas) {
  const json api = json::parse(OpenApi());
  EXPECT_EQ(api["openapi"], "3.1.0");
  for (const char* path :
       {"/api/v1/state", "/api/v1/studies", "/api/v1/models", "/api/v1/ladder", "/api/v1/events", "/api/v1/forecast",
        "/api/v1/run/pause", "/api/v1/run/stop", "/api/v1/queue", "/api/v1/queue/{search}/withdraw", "/api/v1/queue/release",
        "/api/v1/studies/{id}", "/api/v1/studies/{id}/trials",
        "/api/v1/studies/{id}/trials.csv", "/api/v1/studies/{id}/trials.json", "/api/v1/studies/{id}/trials/{trial}",
        "/api/v1/studies/{id}/trials/{trial}/log", "/api/v1/studies/{id}/trials/{trial}/rerun", "/api/v1/studies/{id}/frontier",
        "/api/v1/studies/{id}/plan", "/api/v1/studies/{id}/compare", "/api/v1/studies/{id}/questions",
        "/api/v1/studies/{id}/report.html", "/api/v1/studies/{id}/report.md", "/api/v1/studies/{id}/operating_point.json",
        "/api/v1/studies/{id}/resume", "/api/v1/openapi.json", "/health", "/metrics"}) {
    EXPECT_TRUE(api["paths"].contains(path)) << path;
  }
  EXPECT_EQ(api["paths"].size(), 29U) << "and no other";
  // What the form may send is what the description says it may.
  const json& form = api["components"]["schemas"]["Start"]["properties"];
  for (const auto& [key, value] : form.items()) {
    const Result<std::vector<std::string>> arguments =
        StartArguments(json{{"model", "."}, {"memory", 1}, {key, json::object()}}.dump(), *ModelRoots::Create({fake_.File("")}));
    EXPECT_THAT(controller::ErrorOf(arguments), testing::Not(HasSubstr("not known here"))) << key;
  }
}

// ---- searches ----

TEST_F(ApiTest, RunsASearchFromTheFormToTheExport) {
  Start();
  const Reply begun = Post("/api/v1/studies", StartBody({{"study", "from the page"}}));
  ASSERT_EQ(begun.status, 202) << begun.body;
  ASSERT_TRUE(Eventually([&] { return Get("/api/v1/studies/1").status == 200 && GetJson("/api/v1/studies/1")["state"] == "done"; }));
  ASSERT_TRUE(Eventually([&] { return GetJson("/api/v1/state")["run"]["exit_code"] == 0; }));
  const json study = GetJson("/api/v1/studies/1");
  EXPECT_EQ(study["study"], "from the page");
  EXPECT_EQ(study["has_lazy"], true);
  EXPECT_THAT(DescriptionFaults({{"{id}", "1"}, {"{trial}", "0"}},
                                {{"plan", "?strict=0.9&lazy=0.8"}, {"compare", "?a=0&b=1"}}), testing::IsEmpty());
  const int best = study["outcome"]["recommended"]["trial"];

  const json frontier = GetJson("/api/v1/studies/1/frontier");
  EXPECT_FALSE(frontier["predicted_fit_frontier"].empty());
  EXPECT_EQ(frontier["has_lazy"], true);
  EXPECT_LT(frontier["window"]["lowest"]["strict"], frontier["window"]["highest"]["strict"]);
  const json plan = GetJson("/api/v1/studies/1/plan?strict=0.9&lazy=0.8");
  EXPECT_EQ(plan["strict"], 0.9);
  EXPECT_GT(plan["predicted_bytes"], 0);

  const json questions = GetJson("/api/v1/studies/1/questions");
  ASSERT_EQ(questions.size(), 40U);
  EXPECT_EQ(questions[7]["text"], "What is number 7?");
  const json self = GetJson("/api/v1/studies/1/compare?a=" + std::to_string(best) + "&b=" + std::to_string(best));
  EXPECT_EQ(self["questions"], 40);
  EXPECT_EQ(self["only_first_right"], 0);
  EXPECT_EQ(self["mcnemar_p"], 1);

  const Reply point = Get("/api/v1/studies/1/operating_point.json");
  ASSERT_EQ(point.status, 200) << point.body;
  EXPECT_EQ(point.headers.at("content-disposition"), "attachment; filename=\"operating_point.json\"");
  EXPECT_TRUE(controller::OperatingPointFromJson(point.body).ok());
  EXPECT_THAT(Get("/api/v1/studies/1/report.html").body, HasSubstr("<svg"));
  EXPECT_THAT(Get("/api/v1/studies/1/report.md").body, HasSubstr("## Recommendation"));
  const std::string csv = Get("/api/v1/studies/1/trials.csv").body;
  EXPECT_THAT(csv, testing::StartsWith("trial,kind,purpose,state,strict,lazy,"));
  EXPECT_EQ(static_cast<size_t>(std::count(csv.begin(), csv.end(), '\n')), 1 + GetJson("/api/v1/studies/1/trials").size());
}

TEST_F(ApiTest, TellsASearchAsItGoes) {
  Start();
  ASSERT_EQ(Post("/api/v1/studies", StartBody()).status, 202);
  ASSERT_TRUE(Eventually([&] { return GetJson("/api/v1/state")["run"]["exit_code"] == 0; }));
  std::vector<std::string> types;
  ASSERT_TRUE(Eventually([&] {
    types.clear();
    for (uint64_t after = api_->hub().before_run();;) {
      const EventHub::Batch batch = api_->hub().Await(after, std::chrono::milliseconds(0));
      if (batch.events.empty()) break;
      for (const auto& event : batch.events) types.push_back(event->type);
      after = batch.events.back()->number;
    }
    return std::find(types.begin(), types.end(), "study_end") != types.end();
  }));
  EXPECT_EQ(types.front(), "run");
  for (const char* type : {"running", "changed", "measure_start", "measure_end", "study_start", "trial_start", "phase", "memory",
                           "questions", "trial_end"}) {
    EXPECT_NE(std::find(types.begin(), types.end(), type), types.end()) << type;
  }
}

// Every fourth client breaks off twice during the search and comes back behind the last event that it has.
TEST_F(ApiTest, SixtyFourStreamsHearEveryLineOfASearchThoughSomeBreakOff) {
  Start();
  constexpr int kClients = 64;
  constexpr size_t kPart = 40;  // events, after which one breaks off
  std::vector<std::vector<StreamEvent>> heard(kClients);
  std::vector<std::thread> clients;
  std::atomic<int> connected{0};
  std::atomic<int> resets{0};
  std::atomic<int> returns{0};
  const auto listen = [&](std::vector<StreamEvent>& events, bool breaks_off) {
    bool counted = false;
    for (int round = 0; round < 3; ++round) {
      const Socket socket(port());
      socket.Send(StreamRequest(port(), round > 0 ? "Last-Event-ID: " + events.back().id + "\r\n" : std::string()));
      if (round > 0) ++returns;
      std::vector<StreamEvent> part;
      std::string text;
      for (size_t before = 0; socket.ReadSome(text, std::chrono::seconds(60)); before = text.size()) {
        if (!counted && text.find("retry:") != std::string::npos) {
          counted = true;
          ++connected;
        }
        if (breaks_off && round < 2) {
          if (StreamEventsIn(text).size() >= kPart) break;
        } else if (text.find("event: study_end\n", before - std::min(before, size_t{32})) != std::string::npos) {
          break;
        }
      }
      if (text.find("event: reset") != std::string::npos) ++resets;
      part = StreamEventsIn(text);
      if (breaks_off && round < 2) part.resize(std::min(part.size(), kPart));  // what came with them is lost
      events.insert(events.end(), part.begin(), part.end());
      if (!breaks_off || events.empty()) return;
      if (std::ranges::find(events, "study_end", &StreamEvent::type) != events.end()) return;
    }
  };
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] { listen(heard[static_cast<size_t>(i)], i % 4 == 0); });
  }
  EXPECT_TRUE(Eventually([&] { return connected == kClients; }));
  EXPECT_EQ(Post("/api/v1/studies", StartBody()).status, 202);
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(resets, 0);
  EXPECT_EQ(returns, 2 * kClients / 4);

  std::vector<std::string> journal;
  std::ifstream file(controller::EventsFileOf(db()));
  for (std::string line; std::getline(file, line);) journal.push_back(line);
  ASSERT_GT(journal.size(), 3 * kPart);
  std::map<std::string, StreamEvent> by_id;
  for (const std::vector<StreamEvent>& events : heard) {
    ASSERT_FALSE(events.empty());
    std::vector<std::string> told;
    bool in_run = false;
    for (size_t i = 0; i < events.size(); ++i) {
      const StreamEvent& event = events[i];
      if (i > 0) {
        ASSERT_EQ(api_->hub().NumberOf(event.id), *api_->hub().NumberOf(events[i - 1].id) + 1) << "a gap, or one twice";
      }
      EXPECT_EQ(by_id.try_emplace(event.id, event).first->second, event) << "two clients heard different things";
      in_run = in_run || event.type == "run";  // what was said before depends on when a client came
      const bool line = event.type != "run" && event.type != "running" && event.type != "changed";
      if (in_run && line && told.size() < journal.size()) told.push_back(event.data);
    }
    EXPECT_EQ(told, journal);
  }
}

TEST_F(ApiTest, AStartThatIsPausedAtOnceHasBegun) {
  Start();
  BlockAt("measure");
  std::thread pauser([&] {
    EXPECT_TRUE(Eventually([&] { return IsBlocked(); }));
    EXPECT_EQ(Post("/api/v1/run/pause").status, 202);
  });
  const Reply begun = Post("/api/v1/studies", StartBody());
  pauser.join();
  EXPECT_EQ(begun.status, 202) << begun.body;
  ASSERT_TRUE(Eventually([&] { return IsIdle(); }));
  EXPECT_EQ(GetJson("/api/v1/state")["run"]["exit_code"], 130);
}

TEST_F(ApiTest, PausesAndResumes) {
  Start();
  BlockAt("generate");
  ASSERT_EQ(Post("/api/v1/studies", StartBody()).status, 202);
  ASSERT_TRUE(Eventually([&] { return IsBlocked(); }));
  EXPECT_EQ(Post("/api/v1/studies", StartBody()).status, 409) << "one at a time";
  EXPECT_EQ(Post("/api/v1/studies/1/resume").status, 409);
  ASSERT_EQ(Post("/api/v1/run/pause").status, 202);
  ASSERT_TRUE(Eventually([&] { return IsIdle(); }));
  EXPECT_EQ(GetJson("/api/v1/studies/1")["state"], "interrupted");
  EXPECT_EQ(GetJson("/api/v1/state")["run"]["exit_code"], 130);
  EXPECT_EQ(Post("/api/v1/run/pause").status, 409) << "nothing runs";

  fake_.SetScript(json::object());
  ASSERT_EQ(Post("/api/v1/studies/1/resume").status, 202);
  ASSERT_TRUE(Eventually([&] { return GetJson("/api/v1/studies/1")["state"] == "done"; }));
  ASSERT_TRUE(Eventually([&] { return IsIdle(); }));
  EXPECT_EQ(Post("/api/v1/studies/1/resume").status, 409) << "it is done";
}

TEST_F(ApiTest, SearchesWaitForTheirTurnAndOneThatFailsLeavesItToTheNext) {
  Start();
  BlockAt("generate");
  ASSERT_EQ(Post("/api/v1/studies", StartBody({{"study", "first"}})).status, 202);
  ASSERT_TRUE(Eventually([&] { return IsBlocked(); }));
  ASSERT_EQ(Post("/api/v1/queue", StartBody({{"study", "second"}})).status, 202);
  ASSERT_EQ(Post("/api/v1/queue", StartBody({{"study", "never"}, {"headroom", 2'000'000}})).status, 202);
  ASSERT_EQ(Post("/api/v1/queue", StartBody({{"study", "not wanted"}})).status, 202);
  ASSERT_EQ(Post("/api/v1/queue", StartBody({{"study", "last"}})).status, 202);
  EXPECT_EQ(Post("/api/v1/queue", StartBody({{"batch", "x"}})).status, 422);
  EXPECT_EQ(Post("/api/v1/queue/3/withdraw").status, 202);
  EXPECT_EQ(Post("/api/v1/queue/3/withdraw").status, 404);
  json queue = GetJson("/api/v1/state")["queue"];
  ASSERT_EQ(queue["waiting"].size(), 3U);
  EXPECT_EQ(queue["waiting"][0]["what"], "second");
  EXPECT_EQ(queue["held"], false);
  EXPECT_EQ(Post("/api/v1/queue/release").status, 409);

  // Whoever pauses wants the machine: nothing begins.
  fake_.SetScript(json::object());
  ASSERT_EQ(Post("/api/v1/run/pause").status, 202);
  ASSERT_TRUE(Eventually([&] { return IsIdle(); }));
  std::this_thread::sleep_for(3 * RunControl::kQueuePeriod);
  EXPECT_TRUE(IsIdle());
  EXPECT_EQ(GetJson("/api/v1/state")["queue"]["held"], true);
  EXPECT_EQ(GetJson("/api/v1/studies").size(), 1U);
  ASSERT_EQ(Post("/api/v1/studies/1/resume").status, 202);
  for (const char* study : {"/api/v1/studies/1", "/api/v1/studies/2", "/api/v1/studies/3"}) {
    ASSERT_TRUE(Eventually([&] { return Get(study).status == 200 && GetJson(study)["state"] == "done"; })) << study;
  }
  ASSERT_TRUE(Eventually([&] { return GetJson("/api/v1/state")["queue"]["waiting"].empty() && IsIdle(); }));
  const json studies = GetJson("/api/v1/studies");
  ASSERT_EQ(studies.size(), 3U);
  for (const auto& [i, name] : {std::pair(0, "first"), {1, "second"}, {2, "last"}}) {
    EXPECT_EQ(studies[static_cast<size_t>(i)]["study"], name);
    EXPECT_EQ(studies[static_cast<size_t>(i)]["state"], "done");
  }
  EXPECT_EQ(GetJson("/api/v1/state")["queue"]["failed"],
            json::array({"never: the headroom asked for leaves nothing of the memory cap"}));
}

TEST_F(ApiTest, APausedSearchHoldsTheQueueUntilItIsReleased) {
  Start();
  BlockAt("generate");
  ASSERT_EQ(Post("/api/v1/studies", StartBody({{"study", "first"}})).status, 202);
  ASSERT_TRUE(Eventually([&] { return IsBlocked(); }));
  ASSERT_EQ(Post("/api/v1/queue", StartBody({{"study", "second"}})).status, 202);
  for (size_t i = 1; i < RunControl::kMaxWaiting; ++i) EXPECT_EQ(Post("/api/v1/queue", StartBody()).status, 202);
  EXPECT_EQ(Post("/api/v1/queue", StartBody()).status, 409) << "no more than so many";
  for (size_t i = 2; i <= RunControl::kMaxWaiting; ++i) {
    EXPECT_EQ(Post("/api/v1/queue/" + std::to_string(i) + "/withdraw").status, 202);
  }
  fake_.SetScript(json::object());
  ASSERT_EQ(Post("/api/v1/run/pause").status, 202);
  ASSERT_TRUE(Eventually([&] { return IsIdle(); }));
  ASSERT_EQ(Post("/api/v1/queue/release").status, 202);
  EXPECT_TRUE(Eventually([&] {
    const json all = GetJson("/api/v1/studies");
    return all.size() == 2 && all[1]["state"] == "done";
  }));
  EXPECT_EQ(GetJson("/api/v1/studies")[0]["state"], "interrupted");
}

TEST_F(ApiTest, ASearchOfElsewhereThatIsPausedHoldsTheQueue) {
  Start();
  BlockAt("generate");
  std::vector<std::string> argv = *StartArguments(StartBody({{"study", "elsewhere"}}), *ModelRoots::Create({fake_.File("")}));
  argv.insert(argv.begin(), {HPROC_BINARY, "tune"});
  argv.push_back("--db=" + db());
  const auto elsewhere = *controller::TuneProcess::Start(std::move(argv), fake_.File("elsewhere.log"));
  ASSERT_TRUE(Eventually([&] { return IsBlocked(); }));
  ASSERT_EQ(Post("/api/v1/queue", StartBody({{"study", "waits"}})).status, 202);
  fake_.SetScript(json::object());
  ASSERT_EQ(Post("/api/v1/run/pause").status, 202);
  ASSERT_TRUE(Eventually([&] { return elsewhere->exit_code().has_value(); }));
  std::this_thread::sleep_for(3 * RunControl::kQueuePeriod);
  EXPECT_EQ(GetJson("/api/v1/state")["queue"]["held"], true);
  EXPECT_EQ(GetJson("/api/v1/studies").size(), 1U);
  ASSERT_EQ(Post("/api/v1/queue/release").status, 202);
  EXPECT_TRUE(Eventually([&] {
    const json all = GetJson("/api/v1/studies");
    return all.size() == 2 && all[1]["state"] == "done";
  }));
}

// What the study says of itself is told by the live feed; what only the queue knows is not in the study file.
TEST_F(ApiTest, TellsWhenTheQueueMovesByItself) {
  std::atomic<int> told{0};
  const std::filesystem::path go_on = fake_.File("go on");
  RunControl control(WriteProgram("while [ ! -e '" + go_on.string() + "' ]; do sleep 0.05; done; echo nothing good; exit 4"), db(),
                     fake_.File("logs"), [&told] { ++told; });
  EXPECT_EQ(control.Enqueue("fails", {}).status, 202);
  ASSERT_TRUE(Eventually([&] { return told == 1; })) << "it began";
  EXPECT_THAT(control.Look().waiting, testing::IsEmpty());
  std::this_thread::sleep_for(2 * RunControl::kQueuePeriod);
  EXPECT_EQ(told, 1) << "nothing changed";
  std::ofstream{go_on};
  ASSERT_TRUE(Eventually([&] { return told == 2; })) << "it failed";
  EXPECT_THAT(control.Look().failed, testing::ElementsAre("fails: nothing good"));
}

TEST_F(ApiTest, StreamsThatASearchOfTheQueueFailedBeforeItOpenedTheStudyFile) {
  Start();
  ASSERT_EQ(Post("/api/v1/queue", StartBody({{"study", "never"}, {"headroom", 2'000'000}})).status, 202);
  ASSERT_TRUE(Eventually([&] { return !GetJson("/api/v1/state")["queue"]["failed"].empty(); }));
  EXPECT_FALSE(std::filesystem::exists(db()));
  EXPECT_TRUE(Eventually([&] { return std::ranges::count(api_->hub().Await(0, {}).events, "changed", &HubEvent::type) >= 3; }))
      << "asked for, begun, failed";
}

TEST_F(ApiTest, TellsThatTheQueueIsHeldOnceTheSearchHasEnded) {
  std::atomic<int> told{0};
  RunControl control(WriteProgram("trap 'exit 130' INT; while :; do sleep 0.05; done"), db(), fake_.File("logs"),
                     [&told] { ++told; });
  EXPECT_EQ(control.Enqueue("first", {}).status, 202);
  ASSERT_TRUE(Eventually([&] { return told == 1; })) << "it began";
  EXPECT_EQ(control.Enqueue("second", {}).status, 202);
  EXPECT_EQ(control.Pause().status, 202);
  EXPECT_TRUE(Eventually([&] { return told == 2; }));
  EXPECT_TRUE(control.Look().held);
}

TEST_F(ApiTest, WhatCannotBeStartedLeavesTheQueue) {
  RunControl control(fake_.File("no program"), db(), fake_.File("logs"), [] {});
  EXPECT_EQ(control.Enqueue("first", {}).status, 202);
  EXPECT_EQ(control.Enqueue("second", {}).status, 202);
  ASSERT_TRUE(Eventually([&] { return control.Look().failed.size() == 2; }));
  EXPECT_THAT(control.Look().failed, testing::ElementsAre(testing::StartsWith("first: cannot start "),
                                                          testing::StartsWith("second: cannot start ")));
  EXPECT_THAT(control.Look().waiting, testing::IsEmpty());
}

TEST_F(ApiTest, AFailureOfTheQueueIsKeptThoughAnotherSearchBeginsAtOnce) {
  RunControl control(WriteProgram("echo nothing good; exit 4"), db(), fake_.File("logs"), [] {});
  EXPECT_EQ(control.Enqueue("fails", {}).status, 202);
  while (!control.Look().exit_code) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(control.Begin("tune", {}).status, 422);
  EXPECT_THAT(control.Look().failed, testing::ElementsAre("fails: nothing good"));
}

// A script stands for the search: one that ends well when interrupted, and one that only SIGKILL ends.
TEST_F(ApiTest, WhatIsPausedOrStoppedHoldsTheQueueHoweverItEnds) {
  for (const char* trap : {"trap 'exit 0' INT", "trap '' INT"}) {
    SCOPED_TRACE(trap);
    const std::filesystem::path begun = fake_.File("begun");
    std::filesystem::remove(begun);
    RunControl control(WriteProgram(std::string(trap) + "; : > " + begun.string() + "; while :; do sleep 0.05; done"), db(),
                       fake_.File("logs"), [] {});
    EXPECT_EQ(control.Enqueue("first", {}).status, 202);
    ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(begun); }));
    EXPECT_EQ(control.Enqueue("second", {}).status, 202);
    const bool deaf = std::string_view(trap).ends_with("'' INT");
    EXPECT_EQ((deaf ? control.Stop() : control.Pause()).status, 202);
    ASSERT_TRUE(Eventually([&] { return control.Look().exit_code.has_value(); }));
    EXPECT_EQ(control.Look().exit_code, deaf ? 128 + SIGKILL : 0);
    std::this_thread::sleep_for(3 * RunControl::kQueuePeriod);
    EXPECT_TRUE(control.Look().held);
    EXPECT_EQ(control.Look().waiting.size(), 1U);
    EXPECT_THAT(control.Look().failed, testing::IsEmpty());
  }
}

TEST_F(ApiTest, StopsAtOnceAndTheStudyCanBeResumed) {
  const std::string mark = "HPROC_TEST_MARK=stop_" + std::to_string(::getpid());
  ::setenv("HPROC_TEST_MARK", mark.substr(mark.find('=') + 1).c_str(), 1);  // what is started from here on has it
  Start();
  fake_.SetScript({{"generate", {{{"do", "ignore_sigterm"}}, {{"do", "write_file"}, {"file", fake_.File("blocked")}, {"text", "x"}},
                                 {{"do", "deaf"}}, {{"do", "hang"}}}}});
  ASSERT_EQ(Post("/api/v1/studies", StartBody()).status, 202);
  ASSERT_TRUE(Eventually([&] { return IsBlocked(); }));
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(Post("/api/v1/run/stop").status, 202);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  ASSERT_TRUE(Eventually([&] { return IsIdle(); }));
  EXPECT_THAT(controller::MarkedAfterAWhile(mark), testing::IsEmpty()) << "a worker outlived its search";
  fake_.SetScript(json::object());
  ASSERT_EQ(Post("/api/v1/studies/1/resume").status, 202);
  EXPECT_TRUE(Eventually([&] { return GetJson("/api/v1/studies/1")["state"] == "done"; }))
      << GetJson("/api/v1/state") << GetJson("/api/v1/studies/1/trials");
}

TEST_F(ApiTest, ReRunsAFailedTrialAndNoOther) {
  Start();
  fake_.SetScript({{"load", {{{"do", "segv"}}}}});
  ASSERT_EQ(Post("/api/v1/studies", StartBody()).status, 202);
  ASSERT_TRUE(Eventually([&] { return GetJson("/api/v1/state")["run"]["exit_code"].is_number(); }));
  const json trials = GetJson("/api/v1/studies/1/trials");
  ASSERT_EQ(trials[0]["state"], "failed");
  fake_.SetScript(json::object());
  EXPECT_EQ(Post("/api/v1/studies/1/trials/999/rerun").status, 404);
  ASSERT_EQ(Post("/api/v1/studies/1/trials/0/rerun").status, 202);
  ASSERT_TRUE(Eventually([&] { return GetJson("/api/v1/state")["run"]["exit_code"].is_number(); }));
  const json after = GetJson("/api/v1/studies/1/trials");
  EXPECT_GT(after.size(), trials.size());
  const auto complete = std::find_if(after.begin(), after.end(), [](const json& t) { return t["state"] != "failed"; });
  ASSERT_NE(complete, after.end());
  EXPECT_EQ(Post("/api/v1/studies/1/trials/" + (*complete)["trial"].dump() + "/rerun").status, 409);
}

TEST_F(ApiTest, SaysAtOnceWhyASearchCouldNotBegin) {
  Start();
  const Reply refused = Post("/api/v1/studies", StartBody({{"headroom", 2'000'000}}));
  EXPECT_EQ(refused.status, 422);
  EXPECT_EQ(json::parse(refused.body)["error"], "the headroom asked for leaves nothing of the memory cap");
  EXPECT_EQ(Post("/api/v1/studies", StartBody({{"batch", -1}})).status, 422);
  EXPECT_EQ(Post("/api/v1/studies", StartBody({{"model", "/etc"}})).status, 422);
  EXPECT_EQ(Post("/api/v1/studies", "{").status, 422);
  EXPECT_EQ(GetJson("/api/v1/studies").size(), 0U);
}

TEST_F(ApiTest, ForecastsBytesBeforeAnythingIsLoaded) {
  Start();
  const Reply reply = Post("/api/v1/forecast", StartBody());
  ASSERT_EQ(reply.status, 200) << reply.body;
  const json forecast = json::parse(reply.body);
  const json api = json::parse(OpenApi());
  EXPECT_EQ(SchemaFault(forecast, api["components"]["schemas"]["Forecast"], api), "");
  EXPECT_EQ(forecast["budget_bytes"], 1'000'000);
  ASSERT_FALSE(forecast["predicted_fit_frontier"].empty());
  for (const json& corner : forecast["predicted_fit_frontier"]) EXPECT_LE(corner["needed_bytes"], 1'000'000);
  EXPECT_GT(forecast["highest"]["needed_bytes"], forecast["lowest"]["needed_bytes"]);
  EXPECT_FALSE(std::filesystem::exists(db())) << "nothing was written";
  EXPECT_EQ(json::parse(Post("/api/v1/forecast", StartBody({{"memory", 1000}})).body)["predicted_fit_frontier"].size(), 0U);
  EXPECT_EQ(Post("/api/v1/forecast", StartBody({{"headroom", 1'000'000}})).status, 422);
  EXPECT_EQ(Post("/api/v1/forecast", StartBody({{"model", "/etc"}})).status, 422);
}

TEST_F(ApiTest, InterruptsItsSearchWhenTheServerEnds) {
  Start();
  BlockAt("generate");
  ASSERT_EQ(Post("/api/v1/studies", StartBody()).status, 202);
  ASSERT_TRUE(Eventually([&] { return IsBlocked(); }));
  Stop();
  EXPECT_FALSE(controller::HolderOf(db())) << "nobody is left behind";
  EXPECT_EQ(OpenSqliteStore(db(), controller::OpenMode::kReadOnly).value()->ListStudies()->front().state,
            controller::StudyState::kInterrupted);
}

}  // namespace
}  // namespace hproc::web
