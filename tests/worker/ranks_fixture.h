// A small model whose ranks are processes, on any device.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <initializer_list>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "controller/worker_group.h"
#include "tests/worker/small_engine.h"

namespace hproc::worker {

using controller::Outcome;
using controller::Reason;
using controller::TrialState;
using controller::WorkerGroup;
using testing::StartsWith;

// Where the worker is; a build that is run on another machine says so in the environment.
inline std::string WorkerPath() {
  const char* path = std::getenv("HPROC_TEST_WORKER");
  return path != nullptr ? path : HPROC_WORKER;
}

// Calls `action` once, when rank 0 begins a phase.
struct AtPhase : controller::WorkerObserver {
  void OnPhase(const PhaseEvent& event) override {
    if (event.begin && event.phase == phase && action) std::exchange(action, {})();
  }
  Phase phase{};
  std::function<void()> action;
};

class RanksFixture : public testing::Test {
 protected:
  // `device`: of all ranks, as a deployment names it.
  explicit RanksFixture(std::string device) : device_(std::move(device)) {}

  void SetUp() override {
    SmallCheckpoint small({.layers = "LF", .hidden = 72, .vocabulary = 260, .heads = 8, .kv_heads = 4, .key_heads = 4,
                           .value_heads = 8, .experts = 4, .width = 40, .shared_width = 44});
    small.text_config["eos_token_id"] = nullptr;
    small.WriteTo(folder_);
    const OpenedCheckpoint opened = OpenedCheckpoint::At(folder_.path());
    plan_ = opened.PlanFor({.strict = 0.98, .lazy = 0.9, .head = 0.99}, pool_);
  }

  TrialJob Job(int ranks, int64_t cap = 0) const {
    TrialJob job{.model_dir = folder_.path(), .plan_json = PlanToJson(plan_), .memory_cap_bytes = cap};
    job.deployment = {.device = device_, .threads = ranks, .world_size = ranks, .context = 64, .batch = 2, .prefill_chunk = 16};
    return job;
  }
  static std::unique_ptr<WorkerGroup> Start(const TrialJob& job, controller::WorkerObserver* observer = nullptr) {
    controller::WorkerOptions options;
    options.executable = WorkerPath();
    options.arguments = {"session"};
    options.terminate = std::chrono::milliseconds(500);
    auto group = WorkerGroup::Start(options, job, observer);
    EXPECT_TRUE(group.ok()) << group.error().message;
    return *std::move(group);
  }
  static std::vector<evals::GenerationRequest> Requests(int count, int tokens) {
    std::vector<evals::GenerationRequest> requests;
    for (int i = 0; i < count; ++i) {
      requests.push_back({.id = i, .prompt = "question " + std::to_string(i * 37), .max_new_tokens = tokens, .stop = {}, .sampling = {}});
      if (i % 3 == 2) requests.back().sampling = {.temperature = 0.8, .top_k = 20, .top_p = 0.9, .seed = static_cast<uint64_t>(i)};
    }
    return requests;
  }
  // Text by request.
  static std::map<int64_t, std::string> Answers(WorkerGroup& group, int count) {
    std::map<int64_t, std::string> answers;
    EXPECT_TRUE(group.Generate(Requests(count, 20), [&](const evals::Completion& c) {
                       answers[c.id] = c.text;
                       return true;
                     }).ok());
    return answers;
  }

  // Whatever a rank is killed in, the trial fails with that, no other rank waits, and no process is left. `victims`: of `ranks`.
  void EndsWithOneThatIsKilledInAnyPhase(int ranks, std::initializer_list<int> victims) {
  for (const Phase phase : {Phase::kInit, Phase::kLoad, Phase::kCache, Phase::kWarmup, Phase::kGenerate, Phase::kThroughput}) {
    for (const int victim : victims) {
      SCOPED_TRACE(std::string(PhaseName(phase)) + ", rank " + std::to_string(victim));
      AtPhase observer;
      auto group = Start(Job(ranks), &observer);
      std::vector<pid_t> pids;
      for (int rank = 0; rank < ranks; ++rank) pids.push_back(group->pid(rank));
      const auto kill = [&] { ::kill(pids[static_cast<size_t>(victim)], SIGKILL); };
      observer.phase = phase;
      observer.action = kill;
      Outcome<controller::LoadedModel> loaded = group->AwaitLoad("");
      std::jthread killer;
      if (loaded.ok() && phase == Phase::kGenerate) {
        int answered = 0;
        EXPECT_FALSE(group->Generate(Requests(200, 40), [&](const evals::Completion&) {
          if (++answered == 2) kill();
          return true;
        }).ok());
      } else if (loaded.ok()) {
        killer = std::jthread([&] {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          kill();
        });
        EXPECT_FALSE(group->Throughput({.prompt_tokens = 32, .short_decode_tokens = 16, .long_decode_tokens = 32, .batch = 2, .repetitions = 2000, .warmups = 0}).ok());
      }
      ASSERT_TRUE(group->verdict().has_value());
      EXPECT_EQ(group->verdict()->state, TrialState::kFailed);
      EXPECT_EQ(group->verdict()->verdict.reason, Reason::kKilled) << group->verdict()->verdict.message;
      EXPECT_THAT(group->verdict()->verdict.message, StartsWith("rank " + std::to_string(victim) + ": SIGKILL"));
      group.reset();
      for (const pid_t pid : pids) EXPECT_TRUE(::kill(pid, 0) != 0 && errno == ESRCH);
    }
  }
  }

  const std::string device_;
  TestFolder folder_;
  ThreadPool pool_{2};
  quant::Plan plan_;
};

}  // namespace hproc::worker
