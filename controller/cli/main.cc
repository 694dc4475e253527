// hproc: finds the operating point at which a model just fits, and shows what it found.
#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <cstdio>
#include <exception>
#include <string>

#include "base/bytes.h"
#include "controller/cli/commands.h"
#include "controller/cli/setup.h"
#include "worker/version.h"

namespace hproc::controller {
namespace {

// A size like 7MiB into bytes.
// `Bytes`: int64_t, or an optional one.
template <typename Bytes>
CLI::Option* AddBytes(CLI::App* app, const std::string& name, Bytes& bytes, const std::string& help) {
  return app->add_option_function<std::string>(
      name,
      [&bytes, name](const std::string& text) {
        const Result<int64_t> parsed = ParseBytes(text);
        if (!parsed.ok()) throw CLI::ValidationError(name, parsed.error().message);
        bytes = *parsed;
      },
      help)->type_name("SIZE");
}

// A floor: a number in (0, 1].
CLI::Option* AddFloor(CLI::App* app, const std::string& name, double& floor, const std::string& help) {
  return app->add_option(name, floor, help)
      ->check([](const std::string& text) -> std::string {
        double value = 0;
        if (!CLI::detail::lexical_cast(text, value) || !(value > 0 && value <= 1)) {
          return "'" + text + "' is not a floor: a cosine similarity in (0, 1]";
        }
        return {};
      })
      ->type_name("FLOOR");
}

void AddStore(CLI::App* app, StudyOptions& options) {
  app->add_option("--db", options.db, "Study file")->capture_default_str();
  app->add_option("--study", options.study, "Name of the study in it");
  app->add_flag("--json", options.json, "JSON on standard output");
}

void AddLaunch(CLI::App* app, LaunchOptions& options) {
  app->add_option("--launcher", options.launcher, "local, or slurm: each worker a job of Slurm; default local")
      ->check(CLI::IsMember({"local", "slurm"}));
  app->add_option("--slurm-args", options.slurm_args, "Options of srun, like \"-p gpu --gres=gpu:1 --time=4:00:00\"")
      ->type_name("ARGS");
  app->add_option("--tables", options.tables,
                  "Folder of the rate tables; default FILE.db.rates. With --launcher slurm one that all nodes share");
  app->add_option("--parallel", options.parallel,
                  "Trials in flight at once, each with devices of its own or a part of the CPU threads; default 1")
      ->check(CLI::Range(1, 256));
}

void AddDeployment(CLI::App* app, DeploymentOptions& options) {
  app->add_option("--device", options.device, "cpu, cuda or cuda:N; cuda:N,M for several")->capture_default_str();
  app->add_option("--tp", options.tp, "Tensor-parallel ranks")->check(CLI::Range(1, 1024))->capture_default_str();
  app->add_option("--threads", options.threads, "CPU threads; 0: all")->check(CLI::Range(0, 1024));
  app->add_option("--context", options.context, "Tokens a sequence may hold; default 1024, 2048 with shots")
      ->check(CLI::Range(2, 1 << 24));
  app->add_option("--batch", options.batch, "Sequences decoded together")->check(CLI::Range(1, 65536))->capture_default_str();
  app->add_option("--prefill-chunk", options.prefill_chunk, "Prompt tokens run at once; 0: the worker's default")
      ->check(CLI::Range(0, 65536));
  app->add_option("--kv-dtype", options.kv_dtype, "f16, f32, or i8: 8 bits and a scale a head")->check(CLI::IsMember({"f16", "f32", "i8"}))->capture_default_str();
}

int Main(int argc, char** argv) {
  CLI::App app{"Finds the operating point at which a language model just fits and still talks sense."};
  app.set_version_flag("--version", worker::kVersion);
  app.require_subcommand(1);
  const auto modes = CLI::IsMember({"v2", "v2a", "auto"});

  TuneOptions tune;
  CLI::App* tune_command = app.add_subcommand("tune", "Search under a memory cap");
  tune_command->add_option("--model", tune.model, "Checkpoint folder, or synthetic:CONFIG.json for random weights")->required();
  AddBytes(tune_command, "--memory", tune.memory_bytes, "Memory cap of each device, like 7MiB or 96GiB")->required();
  AddBytes(tune_command, "--headroom", tune.headroom_bytes, "To be left free of it");
  AddDeployment(tune_command, tune.deployment);
  tune_command->add_option("--mode", tune.mode, "v2, v2a or auto")->check(modes)->capture_default_str();
  AddFloor(tune_command, "--strict-min", tune.strict_min, "Lowest strict floor to consider")->capture_default_str();
  AddFloor(tune_command, "--strict-max", tune.strict_max, "Highest strict floor")->capture_default_str();
  AddFloor(tune_command, "--lazy-min", tune.lazy_min, "Lowest lazy floor")->capture_default_str();
  AddFloor(tune_command, "--lazy-max", tune.lazy_max, "Highest lazy floor")->capture_default_str();
  AddFloor(tune_command, "--head", tune.head, "Floor of lm_head")->capture_default_str();
  tune_command->add_option("--min-accuracy", tune.min_accuracy, "Strict-match rate below which no point is wanted")
      ->check(CLI::Range(0.0, 1.0));
  tune_command->add_option("--candidates", tune.max_candidates, "Points whose answers are compared, at most")
      ->check(CLI::Range(1, 1000))->capture_default_str();
  tune_command->add_option("--garbage-loads", tune.max_garbage_loads, "Loads spent on the garbage frontier, at most")
      ->check(CLI::Range(0, 1000))->capture_default_str();
  tune_command->add_flag("--trust-plan", tune.trust_plan, "No loads to confirm what the plan says does not fit");
  tune_command->add_flag("--baseline-16bit", tune.baseline_16bit,
                         "Then run the checkpoint as stored too, fit or not, and compare answer by answer");
  tune_command->add_flag("--baseline-int4", tune.baseline_int4,
                         "Likewise with the weights rounded to nearest at 4 bits in groups of 128");
  tune_command->add_flag("--baseline-int4-pruned", tune.baseline_int4_pruned,
                         "Likewise, with so many routed experts left out that it is no larger than the recommended point");
  tune_command->add_option("--tasks", tune.tasks, "Questions, JSONL in GSM8K's layout; default test.jsonl beside the model");
  tune_command->add_option("--shots", tune.shots, "Worked examples a prompt; default 5 where there is a file of them, else 0")
      ->check(CLI::Range(0, 64));
  tune_command->add_option("--shots-file", tune.shots_file, "Where they are drawn from; default train.jsonl beside the tasks");
  tune_command->add_option("--seeds", tune.seeds, "1: greedy; more: sampled that many times")->check(CLI::Range(1, 100))
      ->capture_default_str();
  tune_command->add_option("--limit", tune.limit, "Questions at most; 0: all")->check(CLI::Range(0, 1 << 24));
  tune_command->add_option("--max-new-tokens", tune.max_new_tokens, "Tokens an answer may have")->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  AddLaunch(tune_command, tune.launch);
  tune_command->add_option("--strategy", tune.strategy, "predict; or walk or grid, which do without the rate table's forecast")
      ->check(CLI::IsMember({"predict", "walk", "grid"}))->capture_default_str();
  tune_command->add_option("--export", tune.export_path, "Write the recommended operating point here");
  AddStore(tune_command, tune.store);

  StudyOptions store;
  std::string path;
  CLI::App* resume = app.add_subcommand("resume", "Go on with a study that was cut off");
  AddStore(resume, store);
  LaunchOptions launch;
  AddLaunch(resume, launch);
  resume->add_option("--export", path, "Write the recommended operating point here");
  CLI::App* status = app.add_subcommand("status", "The studies of a file");
  AddStore(status, store);
  CLI::App* trials = app.add_subcommand("trials", "The trials of a study");
  AddStore(trials, store);
  CLI::App* frontier = app.add_subcommand("frontier", "The floor plane of a study");
  AddStore(frontier, store);
  int number = -1;
  CLI::App* show = app.add_subcommand("show", "One trial with its evidence; with --json its answers too");
  show->add_option("trial", number, "Its number")->required()->check(CLI::NonNegativeNumber);
  AddStore(show, store);
  CLI::App* rerun = app.add_subcommand("rerun", "Give a failed trial a further go, then go on with the study");
  rerun->add_option("trial", number, "Its number")->required()->check(CLI::NonNegativeNumber);
  AddStore(rerun, store);
  AddLaunch(rerun, launch);
  CLI::App* export_command = app.add_subcommand("export", "Write an operating point with its evidence");
  CLI::Option* export_trial =
      export_command->add_option("--trial", number, "Which; default the recommended one")->check(CLI::NonNegativeNumber);
  export_command->add_option("--out", path, "File; default standard output");
  AddStore(export_command, store);

  std::string stem = "report";
  CLI::App* report = app.add_subcommand("report", "Write what a study found, and how sure that is, as HTML and Markdown");
  report->add_option("--out", stem, "The two files' name without its ending")->capture_default_str();
  AddStore(report, store);

  PlanOptions plan;
  CLI::App* plan_command = app.add_subcommand("plan", "What a pair of floors costs: bytes, bits, cosines");
  plan_command->add_option("--model", plan.model, "Checkpoint folder")->required();
  AddFloor(plan_command, "--strict", plan.strict, "Strict floor")->required();
  AddFloor(plan_command, "--lazy", plan.lazy, "Lazy floor")->required();
  AddFloor(plan_command, "--head", plan.head, "Floor of lm_head")->capture_default_str();
  plan_command->add_option("--mode", plan.mode, "v2, v2a or auto")->check(modes)->capture_default_str();
  AddDeployment(plan_command, plan.deployment);
  plan_command->add_option("--tables", plan.tables, "Folder that keeps rate tables; default the user's cache");
  plan_command->add_flag("--json", plan.json, "JSON on standard output");

  VerifyOptions verify;
  CLI::App* verify_command = app.add_subcommand("verify", "Run an exported operating point again; exit 1 on drift");
  verify_command->add_option("file", verify.file, "operating_point.json")->required();
  verify_command->add_option("--model", verify.model, "Checkpoint folder; default the one in the file");
  verify_command->add_option("--tasks", verify.tasks, "Questions; default those in the file");
  verify_command->add_option("--shots-file", verify.shots_file, "Shots; default those in the file");
  verify_command->add_option("--device", verify.device, "cpu, cuda or cuda:N; cuda:N,M for several; default that in the file");
  verify_command->add_option("--tp", verify.tp, "Tensor-parallel ranks; default those in the file")->check(CLI::Range(1, 1024));
  AddBytes(verify_command, "--memory", verify.memory_bytes, "Memory cap of each device, without headroom; default that in the file");
  verify_command->add_option("--limit", verify.limit, "Questions asked again; 0: all")->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  verify_command->add_flag("--json", verify.json, "JSON on standard output");

  ServeOptions serve;
  CLI::App* serve_command = app.add_subcommand("serve", "The dashboard: start, watch, compare, choose and export in the browser");
  serve_command->add_option("--db", serve.db, "Study file; need not be there yet")->capture_default_str();
  serve_command->add_option("--root", serve.roots, "Folder whose checkpoints may be tuned from the browser; may be repeated");
  serve_command->add_option("--port", serve.port, "0: any that is free")->check(CLI::Range(0, 65535))->capture_default_str();
  serve_command->add_option("--bind", serve.bind, "Address to listen on")->capture_default_str();
  serve_command->add_option("--allow-host", serve.allowed_hosts, "A further name of this server, HOST or HOST:PORT, as a proxy passes it on");
  serve_command->add_option("--token-file", serve.token_file, "File with the token for changes; default a new one each time");
  serve_command->add_flag("--json", serve.json, "JSON on standard output: url, port, token");

  CLI::App* bench = app.add_subcommand("bench", "Throughput alone, as llama-bench has it; see hproc bench --help");
  bench->prefix_command();  // the worker's own command, which times where the model is
  bench->set_help_flag();

  std::string answers;
  CLI::App* score = app.add_subcommand("score", "Score a file of answers; prints JSON");
  score->add_option("--answers", answers, "JSON lines {\"answer\" gold, \"output\" model text}")->required();
  bool json_always = false;
  score->add_flag("--json", json_always, "The output is JSON in any case");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    return Fail(kExitUsage, e.what());
  }
  if (*tune_command) return RunTune(tune);
  if (*resume) return RunResume(store, launch, path);
  if (*rerun) return RunRerun(store, launch, number);
  if (*status) return RunStatus(store);
  if (*trials) return RunTrials(store);
  if (*show) return RunShow(store, number);
  if (*frontier) return RunFrontier(store);
  if (*export_command) return RunExport(store, *export_trial ? std::optional<int>(number) : std::nullopt, path);
  if (*report) return RunReport(store, stem);
  if (*plan_command) return RunPlan(plan);
  if (*verify_command) return RunVerify(verify);
  if (*bench) return RunBench(bench->remaining());
  if (*serve_command) return RunServe(serve);
  return RunScore(answers);
}

}  // namespace
}  // namespace hproc::controller

int main(int argc, char** argv) {
  using namespace hproc::controller;
  try {
    const int code = Main(argc, argv);
    // Standard output is buffered: that the disk is full may show only now.
    if ((std::fflush(stdout) != 0 || std::ferror(stdout) != 0) && code != kExitInfrastructure) {
      return Fail(kExitInfrastructure, "standard output: cannot be written");
    }
    return code;
  } catch (const std::exception& e) {
    return Fail(kExitInfrastructure, e.what());
  }
}
