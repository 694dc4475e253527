#include "controller/worker_client.h"

#include "worker/lines.h"

namespace hproc::controller {
namespace {

// The conversation in the supervisor lets no other result through.
template <typename T>
T Expect(worker::EventBody& answer) {
  auto* result = std::get_if<worker::ResultEvent>(&answer);
  HPROC_CHECK(result != nullptr && std::holds_alternative<T>(result->result),
              "a result that does not fit the call: the calls do not fit the job");
  return std::get<T>(std::move(result->result));
}

}  // namespace

Result<std::unique_ptr<WorkerClient>> WorkerClient::Start(WorkerOptions options,
                                                          const worker::Job& job,
                                                          WorkerObserver* observer) {
  Result<std::unique_ptr<WorkerProcess>> process = WorkerProcess::Start(std::move(options), job);
  if (!process.ok()) return process.error();
  return std::unique_ptr<WorkerClient>(new WorkerClient(*std::move(process), observer));
}

WorkerClient::WorkerClient(std::unique_ptr<WorkerProcess> process, WorkerObserver* observer)
    : process_(std::move(process)), observer_(observer) {}

WorkerClient::~WorkerClient() = default;

Outcome<worker::MeasureResult> WorkerClient::AwaitMeasure() {
  std::optional<worker::EventBody> answer = NextAnswer();
  if (!answer) return *verdict_;
  return Expect<worker::MeasureResult>(*answer);
}

Outcome<LoadedModel> WorkerClient::AwaitLoad(const std::string& plan_digest) {
  std::optional<worker::EventBody> answer = NextAnswer();
  if (!answer) return *verdict_;
  LoadedModel model;
  model.load = Expect<worker::LoadResult>(*answer);
  if (!plan_digest.empty() && model.load.plan_digest != plan_digest) {
    process_->Reject("it loaded the plan " + model.load.plan_digest + ", not " + plan_digest);
    return AwaitEnd();
  }
  if (observer_ != nullptr) observer_->OnLoad(model.load);
  answer = NextAnswer();
  if (!answer) return *verdict_;
  Expect<worker::ReadyResult>(*answer);
  model.memory = memory_;
  return model;
}

Outcome<worker::GenerateResult> WorkerClient::Generate(
    std::span<const evals::GenerationRequest> requests,
    FunctionRef<bool(evals::Completion)> on_completion) {
  if (requests.empty() && !verdict_) return worker::GenerateResult{};
  Send(worker::GenerateCommand{{requests.begin(), requests.end()}});
  bool wanted = true;
  for (;;) {
    std::optional<worker::EventBody> answer = NextAnswer();
    if (!answer) return *verdict_;
    auto* sample = std::get_if<worker::SampleEvent>(&*answer);
    if (sample == nullptr) return Expect<worker::GenerateResult>(*answer);
    if (wanted && !on_completion(std::move(sample->completion))) {
      wanted = false;
      Send(worker::CancelCommand{});
    }
  }
}

Outcome<std::vector<evals::ThroughputSample>> WorkerClient::Throughput(
    const evals::ThroughputSpec& spec) {
  Send(worker::ThroughputCommand{spec});
  std::optional<worker::EventBody> answer = NextAnswer();
  if (!answer) return *verdict_;
  return Expect<worker::ThroughputResult>(*answer).samples;
}

RunVerdict WorkerClient::Finish() {
  Send(worker::FinishCommand{});
  return AwaitEnd();
}

void WorkerClient::AskToFinish() { (void)process_->Send(worker::FinishCommand{}); }

void WorkerClient::Stop(std::string why) { process_->Stop(std::move(why)); }

void WorkerClient::Send(const worker::Command& command) {
  if (verdict_) return;
  const Result<void> sent = process_->Send(command);
  // Only a prompt set of more than kMaxLineBytes gets here. The run cannot go on as asked.
  if (!sent.ok()) process_->Reject(sent.error().message);
}

std::optional<worker::EventBody> WorkerClient::NextAnswer() {
  while (!verdict_) {
    std::variant<worker::Event, WorkerEnd> next = process_->NextEvent();
    if (auto* end = std::get_if<WorkerEnd>(&next)) {
      verdict_ = Judge(*end);
      end_ = std::move(*end);
      break;
    }
    worker::EventBody& body = std::get<worker::Event>(next).body;
    if (const auto* memory = std::get_if<worker::MemoryEvent>(&body)) memory_ = *memory;
    if (std::holds_alternative<worker::ResultEvent>(body) ||
        std::holds_alternative<worker::SampleEvent>(body)) {
      return std::move(body);
    }
    if (observer_ == nullptr) continue;
    if (const auto* hello = std::get_if<worker::HelloEvent>(&body)) observer_->OnHello(*hello);
    if (const auto* phase = std::get_if<worker::PhaseEvent>(&body)) observer_->OnPhase(*phase);
    if (const auto* done = std::get_if<worker::ProgressEvent>(&body)) observer_->OnProgress(*done);
    if (const auto* memory = std::get_if<worker::MemoryEvent>(&body)) observer_->OnMemory(*memory);
  }
  return std::nullopt;
}

RunVerdict WorkerClient::AwaitEnd() {
  while (NextAnswer()) {
  }
  return *verdict_;
}

Result<void> RemoteGenerator::Generate(
    std::span<const evals::GenerationRequest> requests,
    const std::function<bool(evals::Completion)>& on_completion) {
  const Outcome<worker::GenerateResult> outcome = model_.Generate(requests, on_completion);
  if (outcome.ok()) return Ok();
  return Error{outcome.verdict().verdict.message};
}

}  // namespace hproc::controller
