// Forecaster: what a search would find to choose from, before anything is loaded: the predicted staircase and bytes of a
// model under a cap. Runs the rate table pass (one worker process, once a checkpoint); nothing of it goes to a study.
#pragma once

#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>

#include "base/result.h"
#include "controller/trial_runner.h"
#include "web/event_hub.h"
#include "web/model_roots.h"

namespace hproc::web {

// Thread-safe; one forecast at a time.
class Forecaster {
 public:
  // `hub`, which outlives it, hears of its progress as `forecast_progress` {done, total, unit}.
  Forecaster(controller::WorkerSetup worker, std::filesystem::path table_folder, EventHub& hub)
      : worker_(std::move(worker)), table_folder_(std::move(table_folder)), hub_(hub) {}

  // `body`: what StartArguments takes; of it are used model, memory, headroom, context, batch, mode, head, kv_dtype,
  // device, threads, tp, prefill_chunk and the bounds of the floors. Takes as long as the pass does; quick the second time.
  // The answer is JSON: budget_bytes, lowest, highest, 16-bit and INT4 bytes, the predicted staircase with the bytes of its
  // corners, and the ledger of the lowest pair.
  struct Answer {
    int status = 200;  // 409: another one is under way; 422: the message says what is wrong
    std::string body;  // JSON, or the message
  };
  Answer Forecast(std::string_view body, const ModelRoots& roots);

  // Ends the one under way, and all later ones.
  void Stop();

 private:
  controller::WorkerSetup worker_;
  std::filesystem::path table_folder_;
  EventHub& hub_;
  std::mutex busy_;
  std::mutex mutex_;  // guards the two below
  class Run;
  Run* current_ = nullptr;
  bool stopped_ = false;
};

}  // namespace hproc::web
