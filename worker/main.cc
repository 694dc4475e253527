// hproc-worker: one rank of one trial, and the two checks that need a model but no study.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "worker/checkpoint.h"
#include "worker/deployment.h"
#include "worker/golden.h"
#include "worker/runtime.h"
#include "worker/session.h"
#include "worker/tokenizer.h"
#include "worker/version.h"

namespace hproc::worker {
namespace {

using nlohmann::json;

int Fail(const std::string& message, WorkerExit code = kExitReported) {
  std::cerr << "hproc-worker: " << message << '\n';
  return code;
}

int RunSessionCommand(int events_fd) {
  EventWriter events{UniqueFd(events_fd)};
  ControlReader control{UniqueFd(STDIN_FILENO)};
  return RunSession(control, events);
}

int RunGoldenCommand(const std::string& model, const std::string& golden, const std::string& device, int threads) {
  if (device != "reference") {
    if (const Result<void> there = CheckDevice(device); !there.ok()) return Fail(there.error().message, kExitUsage);
  }
  const std::unique_ptr<Runtime> runtime = device == "reference" ? OpenReferenceRuntime(threads) : OpenRuntime(device, threads, 0);
  const Result<GoldenResult> result = RunGolden(model, golden, *runtime);
  if (!result.ok()) return Fail(result.error().message);
  json line = {{"greedy_match", result->greedy_match}, {"greedy_total", result->greedy_total}};
  // A logit that is not a number makes the error one too; JSON has no word for it.
  line["logits_rel_err"] = std::isfinite(result->logits_rel_err) ? json(result->logits_rel_err) : json(nullptr);
  std::cout << line.dump() << '\n';
  return kExitOk;
}

int RunTokenizeCommand(const std::string& model) {
  const Result<std::filesystem::path> file = ResolveInFolder(model, "tokenizer.json");
  if (!file.ok()) return Fail(file.error().message);
  const Result<Tokenizer> tokenizer = Tokenizer::FromFile(*file);
  if (!tokenizer.ok()) return Fail(tokenizer.error().message);
  int64_t number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ++number;
    if (line.empty()) continue;
    const json request = json::parse(line, nullptr, false);
    if (!request.is_object() || !request.contains("text") || !request["text"].is_string()) {
      return Fail("standard input, line " + std::to_string(number) + ": not an object with a \"text\"");
    }
    const Result<std::vector<int32_t>> ids = tokenizer->Encode(request["text"].get<std::string>());
    if (!ids.ok()) return Fail("standard input, line " + std::to_string(number) + ": " + ids.error().message);
    std::cout << json{{"ids", *ids}, {"decoded", tokenizer->Decode(*ids)}}.dump() << '\n';
  }
  std::cout.flush();
  return std::cout ? kExitOk : Fail("standard output: cannot write");
}

int Main(int argc, char** argv) {
  CLI::App app{"Runs a model for hproc: quantizes on load, generates, measures."};
  app.set_version_flag("--version", kVersion);
  app.require_subcommand(1);

  int events_fd = -1;
  CLI::App* session = app.add_subcommand("session", "Work off one job from standard input (for the controller)");
  session->add_option("--events-fd", events_fd, "Where events go")->required()->check(CLI::NonNegativeNumber);

  std::string model;
  std::string golden_file;
  std::string device = "cpu";
  int threads = 0;
  CLI::App* golden = app.add_subcommand("golden", "Compare logits and greedy tokens with a recorded truth; prints JSON");
  golden->add_option("--model", model, "Checkpoint folder")->required();
  golden->add_option("--golden", golden_file, "safetensors file with the truth")->required();
  golden->add_option("--device", device, "cpu, cuda or cuda:N, or reference for the plain-loop backend");
  golden->add_option("--threads", threads, "CPU threads; 0: all")->check(CLI::Range(0, kMostThreads));

  CLI::App* tokenize =
      app.add_subcommand("tokenize", R"(JSON lines {"text"} on stdin to {"ids","decoded"} on stdout)");
  tokenize->add_option("--model", model, "Checkpoint folder")->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitOk : kExitUsage;
  }
  if (*session) return RunSessionCommand(events_fd);
  if (*golden) return RunGoldenCommand(model, golden_file, device, ThreadsFor({.threads = threads}));
  return RunTokenizeCommand(model);
}

}  // namespace
}  // namespace hproc::worker

int main(int argc, char** argv) {
  try {
    return hproc::worker::Main(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "hproc-worker: " << e.what() << '\n';
    return hproc::worker::kExitReported;
  }
}
