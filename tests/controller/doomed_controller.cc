// A controller for death_test.cc to kill: starts a worker, prints its number once it is at work,
// and waits for the end that it will not see coming.
//   doomed_controller WORKER SCRIPT
#include <unistd.h>

#include <cstdio>

#include "controller/worker_process.h"

int main(int argc, char** argv) {
  using namespace hproc;  // NOLINT: the one function here
  if (argc != 3) return 2;
  controller::WorkerOptions options;
  options.executable = argv[1];
  options.environment = {std::string("HPROC_FAKE=") + argv[2]};
  worker::TrialJob job;
  job.plan_json = "{}";
  job.deployment.context = 1;
  auto process = controller::WorkerProcess::Start(options, job);
  if (!process.ok()) return 1;
  for (;;) {
    const auto next = (*process)->NextEvent();
    const auto* event = std::get_if<worker::Event>(&next);
    if (event == nullptr) return 1;
    const auto* phase = std::get_if<worker::PhaseEvent>(&event->body);
    if (phase == nullptr || phase->phase != worker::Phase::kLoad) continue;
    std::printf("%d\n", (*process)->pid());
    std::fflush(stdout);
    for (;;) ::pause();
  }
}
