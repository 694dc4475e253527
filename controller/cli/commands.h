// The commands of hproc. Each takes its parsed options and returns an exit code; data goes to standard output, everything
// else to standard error.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "controller/cli/exit_codes.h"
#include "quant/floors.h"

namespace hproc::controller {

// Where a study is to be found.
struct StudyOptions {
  std::string db = "hproc.db";
  std::string study;  // empty: the only one, or the newest that is not done
  bool json = false;
};

// What a deployment is made of; shared by tune and plan.
struct DeploymentOptions {
  std::string device = "cpu";
  int tp = 1;
  int threads = 0;
  int context = 0;  // 0: 1024, or 2048 with shots
  int batch = 1;
  int prefill_chunk = 0;
  std::string kv_dtype = "f16";
};

// How trials are launched; shared by tune, resume and rerun. What is not given: as tune has it by default, or as the study
// was begun.
struct LaunchOptions {
  std::optional<std::string> launcher;
  std::optional<std::string> slurm_args;
  std::optional<int> parallel;
  std::string tables;  // folder of rate tables; empty: beside the study file
};

struct TuneOptions {
  std::string model;
  int64_t memory_bytes = 0;
  int64_t headroom_bytes = 0;
  DeploymentOptions deployment;
  std::string mode = "auto";
  double strict_min = 0.8;
  double strict_max = 1;
  double lazy_min = 0.5;
  double lazy_max = 1;
  double head = 0.999;
  double min_accuracy = 0;
  int max_candidates = 5;
  int max_garbage_loads = 6;
  bool trust_plan = false;
  bool baseline_16bit = false;
  bool baseline_int4 = false;
  bool baseline_int4_pruned = false;
  std::string tasks;       // empty: test.jsonl beside the model's folder
  std::string shots_file;  // empty: train.jsonl beside the tasks
  int shots = -1;          // -1: 5 where there is a shots file, else 0
  int seeds = 1;
  int limit = 0;
  int max_new_tokens = 420;
  LaunchOptions launch;
  std::string strategy = "predict";
  std::string export_path;  // operating_point.json; empty: none
  StudyOptions store;
};

struct PlanOptions {
  std::string model;
  double strict = 0;
  double lazy = 0;
  double head = 0.999;
  std::string mode = "auto";
  DeploymentOptions deployment;
  std::string tables;  // folder of rate tables; empty: the user's cache
  bool json = false;
};

struct VerifyOptions {
  std::string file;
  std::string model;  // empty: the one the file names
  std::string tasks;
  std::string shots_file;
  // Where it is run, when not as the file says.
  std::optional<std::string> device;
  std::optional<int> tp;
  std::optional<int64_t> memory_bytes;  // cap of each device
  int limit = 200;  // questions asked again; 0: all
  bool json = false;
};

struct ServeOptions {
  std::string db = "hproc.db";
  std::vector<std::string> roots;          // folders whose checkpoints the browser may name
  std::string bind = "127.0.0.1";
  int port = 8377;                         // 0: any that is free
  std::vector<std::string> allowed_hosts;  // further names of this server, behind a proxy
  std::string token_file;                  // empty: a new token
  bool json = false;
};

int RunTune(const TuneOptions& options);
int RunResume(const StudyOptions& options, const LaunchOptions& launch, const std::string& export_path);
// A further go at a trial that failed, then on with the study.
int RunRerun(const StudyOptions& options, const LaunchOptions& launch, int trial);
int RunPlan(const PlanOptions& options);
int RunStatus(const StudyOptions& options);
int RunTrials(const StudyOptions& options);
int RunShow(const StudyOptions& options, int trial);
int RunFrontier(const StudyOptions& options);
int RunExport(const StudyOptions& options, std::optional<int> trial, const std::string& path);
// Writes STEM.html and STEM.md and prints their names.
int RunReport(const StudyOptions& options, const std::string& stem);
int RunVerify(const VerifyOptions& options);
// Becomes the worker's own bench, with these arguments.
int RunBench(const std::vector<std::string>& arguments);
// Until SIGINT or SIGTERM; searches that it began are interrupted then.
int RunServe(const ServeOptions& options);
int RunScore(const std::string& answers);

}  // namespace hproc::controller
