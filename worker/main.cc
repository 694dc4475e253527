// hproc-worker: one rank of one trial, and the two checks that need a model but no study.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/levels.h"
#include "worker/bench.h"
#include "worker/checkpoint.h"
#include "worker/deployment.h"
#include "worker/devices.h"
#include "worker/golden.h"
#include "worker/ranks.h"
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

int RunGoldenCommand(const std::string& model, const std::string& golden, const std::string& devices, int threads, int tp) {
  const Result<std::vector<std::string>> by_rank = DevicesOf(devices, tp);
  if (!by_rank.ok()) return Fail(by_rank.error().message, kExitUsage);
  for (const std::string& device : *by_rank) {
    if (device == "reference") continue;
    if (const Result<void> there = CheckDevice(device); !there.ok()) return Fail(there.error().message, kExitUsage);
  }
  const Result<GoldenResult> result = RunRanks<GoldenResult>(tp, [&](const Rank& rank) -> Result<GoldenResult> {
    const std::string& device = (*by_rank)[static_cast<size_t>(rank.shard.rank)];
    const int own_threads = std::max(1, threads / tp);
    const std::unique_ptr<Runtime> runtime =
        device == "reference" ? OpenReferenceRuntime(own_threads) : OpenRuntime(device, own_threads, 0);
    return RunGolden(model, golden, *runtime, rank);
  });
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

double Gigabytes(int64_t bytes) { return static_cast<double>(bytes) * 1e-9; }

// Rows as llama-bench has them: pp is a prompt, tg are tokens generated after one.
int RunBenchCommand(const BenchOptions& options, bool as_json) {
  const Result<BenchReport> report = RunBench(options);
  if (!report.ok()) return Fail(report.error().message);
  if (as_json) {
    json rows = json::array();
    for (const evals::ThroughputSummary& row : report->rows) {
      rows.push_back({{"kind", evals::ThroughputKindName(row.kind)}, {"tokens", row.tokens}, {"batch", row.batch},
                      {"repetitions", row.repetitions}, {"mean_tok_per_s", row.mean_tok_per_s},
                      {"sd_tok_per_s", row.sd_tok_per_s}, {"median_tok_per_s", row.median_tok_per_s}});
    }
    json sums = nullptr;
    if (report->sums) {
      sums = {{"step_s", report->sums->step_seconds}, {"bytes", report->sums->sum_bytes},
              {"large_bus_bytes_per_s", report->sums->large_bus_bytes_per_s}};
    }
    json ledger = json::object();
    for (const LedgerLine& line : report->ledger) ledger[line.name] = line.bytes;
    std::cout << json{{"model", report->model}, {"device", report->device_name}, {"worker_version", kVersion},
                      {"weights", report->weights}, {"weight_bytes", report->load.weight_bytes},
                      {"bits_per_weight", report->load.bits_per_weight}, {"load_s", report->load.seconds},
                      {"load_peak_bytes", report->peak_bytes}, {"live_bytes", report->live_bytes}, {"ledger", ledger},
                      {"rows", rows}, {"all_reduce", sums}}.dump() << '\n';
    return kExitOk;
  }
  std::cerr << fmt::format("{}: loaded in {:.1f} s, {:.2f} G weights/s; {:.2f} GB on the device, {:.2f} GB at most while loading\n",
                           report->device_name, report->load.seconds,
                           static_cast<double>(report->weights) * 1e-9 / report->load.seconds, Gigabytes(report->live_bytes),
                           Gigabytes(report->peak_bytes));
  std::cout << "| model | size | bits | device | batch | test | t/s |\n|---|---|---|---|---|---|---|\n";
  for (const evals::ThroughputSummary& row : report->rows) {
    std::cout << fmt::format("| {} | {:.2f} GB | {:.2f} | {} | {} | {}{} | {:.1f} ± {:.1f} |\n", report->model,
                             Gigabytes(report->load.weight_bytes), report->load.bits_per_weight, report->device_name, row.batch,
                             row.kind == evals::ThroughputKind::kPrefill ? "pp" : "tg", row.tokens / row.batch,
                             row.mean_tok_per_s, row.sd_tok_per_s);
    if (!report->sums || row.kind == evals::ThroughputKind::kPrefill) continue;
    const double step = row.batch / row.mean_tok_per_s;
    std::cerr << fmt::format("sums over the ranks take {:.3f} of the {:.3f} ms of a step of tg{} ({:.1f} %); {:.1f} GB/s of bus bandwidth when large\n",
                             report->sums->step_seconds * 1e3, step * 1e3, row.tokens / row.batch,
                             100 * report->sums->step_seconds / step, report->sums->large_bus_bytes_per_s * 1e-9);
  }
  return kExitOk;
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
  int tp = 1;
  CLI::App* golden = app.add_subcommand("golden", "Compare logits and greedy tokens with a recorded truth; prints JSON");
  golden->add_option("--model", model, "Checkpoint folder")->required();
  golden->add_option("--golden", golden_file, "safetensors file with the truth")->required();
  golden->add_option("--device", device, "cpu, cuda or cuda:N[,M…], or reference for the plain-loop backend");
  golden->add_option("--tp", tp, "Tensor-parallel ranks")->check(CLI::Range(1, 1024))->capture_default_str();
  golden->add_option("--threads", threads, "CPU threads; 0: all")->check(CLI::Range(0, kMostThreads));

  CLI::App* tokenize =
      app.add_subcommand("tokenize", R"(JSON lines {"text"} on stdin to {"ids","decoded"} on stdout)");
  tokenize->add_option("--model", model, "Checkpoint folder")->required();

  BenchOptions options;
  std::vector<int> levels;
  bool as_json = false;
  CLI::App* bench = app.add_subcommand("bench", "Time prefill and decode of a model under uniform levels; llama-bench style rows");
  bench->add_option("--model", options.model, "Checkpoint folder, or synthetic:CONFIG.json for random weights")->required();
  bench->add_option("--device", options.deployment.device, "cpu, cuda or cuda:N[,M…]")->capture_default_str();
  bench->add_option("--tp", options.deployment.world_size, "Tensor-parallel ranks")->check(CLI::Range(1, 1024))->capture_default_str();
  bench->add_option("--threads", options.deployment.threads, "CPU threads; 0: all")->check(CLI::Range(0, kMostThreads));
  bench->add_option("--levels", levels, "Codebook sizes K of the strict, lazy and head families; none: as stored")->expected(3);
  bench->add_option("--prompt", options.throughput.prompt_tokens, "Tokens of a prompt")->capture_default_str();
  bench->add_option("--short", options.throughput.short_decode_tokens, "Tokens of a short answer")->capture_default_str();
  bench->add_option("--long", options.throughput.long_decode_tokens, "Tokens of a long answer")->capture_default_str();
  bench->add_option("--batch", options.throughput.batch, "Sequences at once")->check(CLI::Range(1, 4096))->capture_default_str();
  bench->add_option("--repetitions", options.throughput.repetitions, "Counted runs")->check(CLI::Range(1, 1000))->capture_default_str();
  bench->add_option("--prefill-chunk", options.deployment.prefill_chunk, "Prompt tokens run at once; 0: the worker's default");
  bench->add_flag("--json", as_json, "One JSON object instead of a table");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitOk : kExitUsage;
  }
  if (*session) return RunSessionCommand(events_fd);
  if (*golden) return RunGoldenCommand(model, golden_file, device, ThreadsFor({.threads = threads}), tp);
  if (*bench) {
    for (size_t i = 0; i < levels.size(); ++i) {
      if (!quant::IsLevelCount(levels[i])) return Fail(std::to_string(levels[i]) + " is not the size of a codebook", kExitUsage);
      options.levels[i] = levels[i];
    }
    options.deployment.batch = options.throughput.batch;
    const int longest = std::max(options.throughput.short_decode_tokens, options.throughput.long_decode_tokens);
    options.deployment.context = std::max(options.throughput.prompt_tokens + longest, 2 * longest);  // a decode fills half at most
    return RunBenchCommand(options, as_json);
  }
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
