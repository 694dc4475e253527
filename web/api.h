// Api: every route of the service but the streams and the page, as a function of a request to a response, without sockets.
//
// web/openapi.json says what each takes and gives. JSON in the shapes that the commands print with --json; an error is
// {"error": "one line"}. Who may ask is decided before (request_guard.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "web/event_hub.h"
#include "web/forecaster.h"
#include "web/live_feed.h"
#include "web/model_roots.h"
#include "web/run_control.h"
#include "web/study_reader.h"

namespace hproc::web {

struct ApiRequest {
  std::string method;  // "GET", "POST"; HEAD comes as GET
  std::string path;    // decoded: "/api/v1/studies/1"
  std::multimap<std::string, std::string> query;
  std::string body;
  bool authorized = false;  // has the token
};

struct ApiResponse {
  int status = 200;
  std::string type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

struct ApiOptions {
  std::filesystem::path db;
  ModelRoots roots;
  std::filesystem::path program;       // hproc, for the searches it begins
  controller::WorkerSetup worker;      // for forecasts
  std::filesystem::path log_folder;    // of the study file's workers
  std::filesystem::path table_folder;  // of its rate tables
};

// Thread-safe.
class Api {
 public:
  explicit Api(ApiOptions options);

  ApiResponse Handle(const ApiRequest& request);

  // Whether the study file can be read; one line where not.
  Result<void> Health();
  // In Prometheus' text format: studies, trials, whether a search runs.
  std::string Metrics();

  // Refuses new work and interrupts what runs; streams end. Handle goes on to answer what reads.
  void Close();
  // Waits for the searches that were begun here; after Close.
  void AwaitRuns();

  EventHub& hub() { return hub_; }

 private:
  ApiResponse Dispatch(const ApiRequest& request);
  ApiResponse State(const ApiRequest& request);
  ApiResponse Studies();
  ApiResponse OfStudy(const ApiRequest& request, const StudySnapshot& snapshot, std::vector<std::string_view> rest);
  ApiResponse OfTrial(const ApiRequest& request, const controller::Trial& trial, const std::vector<std::string_view>& rest);
  ApiResponse TrialOf(const controller::Trial& trial);
  ApiResponse LogOf(const ApiRequest& request, const controller::Trial& trial);
  ApiResponse Compare(const ApiRequest& request, const StudySnapshot& snapshot);
  ApiResponse PlanAt(const ApiRequest& request, const StudySnapshot& snapshot);
  ApiResponse Report(const StudySnapshot& snapshot, bool html);
  ApiResponse Export(const ApiRequest& request, const StudySnapshot& snapshot);
  RunAnswer ChangeQueue(const ApiRequest& request, const std::vector<std::string_view>& parts);
  ApiResponse Change(const ApiRequest& request, const std::vector<std::string_view>& parts);

  const ApiOptions options_;
  EventHub hub_;
  StudyReader reader_;
  Forecaster forecaster_;
  std::unique_ptr<RunControl> runs_;
  LiveFeed feed_;
};

}  // namespace hproc::web
