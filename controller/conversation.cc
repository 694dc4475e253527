#include "controller/conversation.h"

#include <string>
#include <utility>

namespace hproc::controller {

using worker::Phase;
using worker::PhaseName;

namespace {

std::string Name(Phase phase) { return std::string(PhaseName(phase)); }

const worker::Deployment& DeploymentOf(const worker::Job& job) {
  return std::visit([](const auto& j) -> const worker::Deployment& { return j.deployment; }, job);
}

}  // namespace

Conversation::Conversation(const worker::Job& job)
    : rank_(DeploymentOf(job).rank),
      world_size_(DeploymentOf(job).world_size),
      task_(std::holds_alternative<worker::MeasureJob>(job) ? Task::kMeasure : Task::kLoad) {}

void Conversation::OnCommand(const worker::Command& command) {
  if (step_ == Step::kEnded) return;  // the worker ended while the command was under way
  if (std::holds_alternative<worker::CancelCommand>(command)) {
    if (At(Task::kGenerate)) cancelled_ = true;
    return;
  }
  HPROC_CHECK(step_ == Step::kIdle, "a command while the worker is busy");
  if (const auto* generate = std::get_if<worker::GenerateCommand>(&command)) {
    StartTask(Task::kGenerate, Phase::kGenerate);
    open_ids_.clear();
    answered_ids_.clear();
    cancelled_ = false;
    for (const evals::GenerationRequest& request : generate->requests) {
      HPROC_CHECK(open_ids_.insert(request.id).second, "two requests with one id");
    }
  } else if (std::holds_alternative<worker::ThroughputCommand>(command)) {
    StartTask(Task::kThroughput, Phase::kThroughput);
  } else {
    step_ = Step::kFinishing;
  }
}

void Conversation::StartTask(Task task, Phase phase) {
  step_ = Step::kWorking;
  task_ = task;
  record_.phase = phase;
}

Result<void> Conversation::OnEvent(const worker::Event& event) {
  if (step_ == Step::kEnded) return Error{"an event after the last one"};
  if (event.seq != next_seq_) {
    return Error{"seq is " + std::to_string(event.seq) + ", not " + std::to_string(next_seq_)};
  }
  ++next_seq_;
  const bool is_hello = std::holds_alternative<worker::HelloEvent>(event.body);
  if (is_hello != (step_ == Step::kStarting)) {
    return Error{is_hello ? "a second hello" : "the first event is not hello"};
  }
  return std::visit([this](const auto& body) { return OnBody(body); }, event.body);
}

Result<void> Conversation::OnBody(const worker::HelloEvent& hello) {
  if (hello.rank != rank_ || hello.world_size != world_size_) {
    return Error{"hello from rank " + std::to_string(hello.rank) + " of " +
                 std::to_string(hello.world_size) + ", not " + std::to_string(rank_) + " of " +
                 std::to_string(world_size_)};
  }
  record_.hello = hello;
  step_ = Step::kWorking;
  return Ok();
}

Result<void> Conversation::OnBody(const worker::PhaseEvent& phase) {
  if (phase.begin) {
    if (step_ != Step::kWorking) return Error{"phase " + Name(phase.phase) + " begins unasked"};
    if (open_phase_) {
      return Error{"phase " + Name(phase.phase) + " begins inside " + Name(*open_phase_)};
    }
    open_phase_ = phase.phase;
    record_.phase = phase.phase;
    return Ok();
  }
  if (open_phase_ != phase.phase) {
    return Error{"phase " + Name(phase.phase) + " ends without having begun"};
  }
  open_phase_.reset();
  return Ok();
}

// Harmless at any time.
Result<void> Conversation::OnBody(const worker::ProgressEvent&) { return Ok(); }
Result<void> Conversation::OnBody(const worker::HeartbeatEvent&) { return Ok(); }
Result<void> Conversation::OnBody(const worker::MemoryEvent&) { return Ok(); }

Result<void> Conversation::OnBody(const worker::SampleEvent& sample) {
  const int64_t id = sample.completion.id;
  if (!At(Task::kGenerate)) return Error{"sample " + std::to_string(id) + " without a generate"};
  if (answered_ids_.contains(id)) return Error{"sample " + std::to_string(id) + " twice"};
  if (open_ids_.erase(id) == 0) {
    return Error{"sample " + std::to_string(id) + ", which was not asked for"};
  }
  answered_ids_.insert(id);
  if (sample.completion.finish == evals::FinishReason::kCancelled && !cancelled_) {
    return Error{"sample " + std::to_string(id) + " is cancelled, which nobody asked for"};
  }
  return Ok();
}

Result<void> Conversation::OnBody(const worker::OutOfMemoryEvent& oom) {
  record_.oom = oom;
  record_.phase = oom.phase;
  step_ = Step::kEnded;
  return Ok();
}

Result<void> Conversation::OnBody(const worker::ErrorEvent& error) {
  record_.error = error;
  step_ = Step::kEnded;
  return Ok();
}

Result<void> Conversation::OnBody(const worker::ResultEvent& result) {
  if (open_phase_) return Error{"a result inside phase " + Name(*open_phase_)};
  return std::visit([this](const auto& r) { return OnResult(r); }, result.result);
}

Result<void> Conversation::OnResult(const worker::MeasureResult&) {
  if (!At(Task::kMeasure)) return Error{"result:measure without a measure job in progress"};
  step_ = Step::kIdle;
  return Ok();
}

Result<void> Conversation::OnResult(const worker::LoadResult&) {
  if (!At(Task::kLoad) || loaded_) return Error{"result:load without a load in progress"};
  loaded_ = true;
  return Ok();
}

Result<void> Conversation::OnResult(const worker::ReadyResult&) {
  if (!At(Task::kLoad) || !loaded_) return Error{"result:ready without a load before it"};
  step_ = Step::kIdle;
  return Ok();
}

Result<void> Conversation::OnResult(const worker::GenerateResult& result) {
  if (!At(Task::kGenerate)) return Error{"result:generate without a generate"};
  if (result.cancelled && !cancelled_) return Error{"a generate cancelled that nobody cancelled"};
  if (!result.cancelled && !open_ids_.empty()) {
    return Error{"result:generate, but " + std::to_string(open_ids_.size()) +
                 " requests have no sample"};
  }
  step_ = Step::kIdle;
  return Ok();
}

Result<void> Conversation::OnResult(const worker::ThroughputResult&) {
  if (!At(Task::kThroughput)) return Error{"result:throughput without a throughput command"};
  step_ = Step::kIdle;
  return Ok();
}

Result<void> Conversation::OnResult(const worker::ExitResult&) {
  if (step_ != Step::kFinishing) return Error{"result:exit without a finish command"};
  record_.exit_announced = true;
  step_ = Step::kEnded;
  return Ok();
}

}  // namespace hproc::controller
