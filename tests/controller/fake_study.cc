#include "tests/controller/fake_study.h"

#include <cmath>
#include <fstream>

#include "base/check.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using quant::Family;

// What the best K levels leave of a Gaussian's variance (Max 1960, table I, and between).
struct GaussianError {
  int levels;
  double share;
};
constexpr GaussianError kGaussian[] = {{2, 0.3634},  {3, 0.1902},  {4, 0.1175},  {6, 0.0580},
                                       {8, 0.0345},  {12, 0.016},  {16, 0.0095}, {24, 0.0044},
                                       {32, 0.0025}, {64, 0.00062}};

// Each outlier more takes as much of the deficit; one weight in sixteen at most, which halves it.
constexpr double kShareToHalve = 1.0 / 16;

quant::Candidate MakeCandidate(const quant::TensorSpec& spec, int levels, double deficit) {
  quant::Candidate candidate;
  candidate.format = {.mode = quant::Mode::kV2,
                      .levels = levels,
                      .centroids = quant::Centroids::kInt8,
                      .group_scales = false};
  const auto add = [&](int rung, int64_t outliers, double left) {
    candidate.steps.push_back({.ladder_index = rung,
                               .outliers = outliers,
                               .min_cosine = static_cast<float>(1 - left),
                               .mean_deficit = left});
    candidate.highest = rung;
  };
  add(0, 0, deficit);
  for (int rung = 1; rung < quant::kLadderSize - 1; ++rung) {
    const double left = 1 - quant::LadderFloor(rung);
    if (left >= deficit) {
      candidate.highest = rung;
      continue;
    }
    const double share = (1 - left / deficit) * 2 * kShareToHalve;
    if (share > kShareToHalve) break;
    add(rung, static_cast<int64_t>(std::ceil(share * static_cast<double>(spec.weights()))), left);
  }
  return candidate;
}

quant::TensorRates MakeTensor(const std::string& name, Family family, int64_t rows,
                              double difficulty) {
  quant::TensorRates rates;
  rates.spec = {.name = name, .family = family, .rows = rows, .columns = 512, .bytes_per_value = 2};
  if (family == Family::kKept) return rates;
  for (const GaussianError& error : kGaussian) {
    rates.candidates.push_back(
        MakeCandidate(rates.spec, error.levels, difficulty * (1 - std::sqrt(1 - error.share))));
  }
  return rates;
}

void WriteLines(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  HPROC_CHECK(file.flush().good(), path);
}

}  // namespace

quant::RateTable FakeTable(bool has_lazy) {
  quant::RateTable table;
  table.fingerprint = "fake-fingerprint";
  table.tensors.push_back(MakeTensor("embed", Family::kKept, 320, 1));
  for (const auto& [layer, difficulty] : {std::pair("0", 1.0), std::pair("1", 1.2)}) {
    table.tensors.push_back(
        MakeTensor("attention." + std::string(layer), Family::kStrict, 256, difficulty));
    if (has_lazy) {
      table.tensors.push_back(
          MakeTensor("experts." + std::string(layer), Family::kLazy, 1024, difficulty));
      table.tensors.back().spec.experts = 8;
    }
  }
  table.tensors.push_back(MakeTensor("norm", Family::kKept, 1, 1));
  table.tensors.push_back(MakeTensor("lm_head", Family::kHead, 320, 1));
  return table;
}

FakeStudy::FakeStudy(FakeModel model) : model_(std::move(model)) {
  std::filesystem::create_directory(File("model"));
  std::string tasks;
  for (int i = 0; i < model_.questions; ++i) {
    tasks += json{{"question", "What is number " + std::to_string(i) + "?"},
                  {"answer", "It is that.\n#### " + std::to_string(3 * i + 1)}}
                 .dump() +
             '\n';
  }
  WriteLines(tasks_path(), tasks);
  WriteLines(File("table.rates"), quant::EncodeRateTable(FakeTable(model_.has_lazy)));

  spec.name = "fake";
  spec.model_dir = File("model");
  spec.fingerprint = "fake-fingerprint";
  spec.deployment.context = 128;
  spec.memory_cap_bytes = 1'000'000;
  spec.eval.tasks_path = tasks_path();
  spec.eval.max_new_tokens = 100;
  WriteScript();

  measured.table_path = File("table.rates");
  measured.fingerprint = "fake-fingerprint";
  const int64_t hidden = model_.settings.value("hidden_bytes", int64_t{0});
  measured.predicted = {{.name = "kv_cache", .bytes = kFakeCacheBytes},
                        {.name = "activations", .bytes = kFakeActivationBytes - hidden}};
  Result<std::unique_ptr<PlanSpace>> space = LoadPlanSpace(measured, "auto", spec.highest.head);
  HPROC_CHECK(space.ok(), ErrorOf(space));
  space_ = std::move(*space);
  Result<StudyQuestions> questions = LoadQuestions(spec.eval);
  HPROC_CHECK(questions.ok(), ErrorOf(questions));
  questions_ = std::move(*questions);
}

void FakeStudy::SetScript(const json& steps) {
  model_.script = steps;
  WriteScript();
}

void FakeStudy::SetModel(const json& settings) {
  model_.settings = settings;
  WriteScript();
}

void FakeStudy::WriteScript() const {
  json script = model_.script;
  json& model = script["model"];
  model = {{"tasks", tasks_path()},
           {"table_file", File("table.rates")},
           {"kv_bytes_per_token", kFakeCacheBytes / 128},
           {"activation_bytes", kFakeActivationBytes}};
  model.update(model_.settings);
  WriteLines(File("model") + "/fake_worker.json", script.dump());
}

WorkerSetup FakeStudy::setup() const {
  WorkerSetup setup;
  setup.executable = HPROC_FAKE_WORKER;
  setup.log_folder = File("");
  return setup;
}

int64_t FakeStudy::TrueBytes(FloorPair at) const {
  return space().At(at).weight_bytes + kFakeCacheBytes + kFakeActivationBytes;
}

NewTrial FakeStudy::PlanOf(FloorPair at, Purpose purpose) const {
  const PlannedPoint& point = space().At(at);
  NewTrial trial;
  trial.floors = point.plan.floors;
  trial.plan_digest = point.digest;
  trial.plan_json = quant::PlanToJson(point.plan);
  trial.predicted_bytes = point.total_bytes;
  trial.predicted_weight_bytes = point.weight_bytes;
  trial.bits_per_weight = point.plan.bits_per_weight();
  trial.purpose = PurposeName(purpose);
  return trial;
}

std::vector<std::string> Substance(const std::vector<Trial>& trials) {
  std::vector<std::string> all;
  for (const Trial& trial : trials) {
    all.push_back(nlohmann::json{{"number", trial.number},
                                 {"digest", trial.plan.plan_digest},
                                 {"purpose", trial.plan.purpose},
                                 {"state", TrialStateName(trial.state)},
                                 {"message", trial.verdict.message},
                                 {"asked", trial.measured.accuracy.total},
                                 {"right", trial.measured.accuracy.strict_correct}}
                      .dump());
  }
  return all;
}

void RecordingObserver::OnTrialStart(const Trial& trial, int attempt) {
  starts.emplace_back(trial.number, attempt);
  at_start(trial);
}

void RecordingObserver::OnQuestions(int /*trial*/, int answered, int /*questions*/, int /*correct*/) {
  ++questions_heard;
  at_question(answered);
}

void RecordingObserver::OnAttemptEnd(const Trial& /*trial*/, int /*attempt*/,
                                     const Verdict& verdict, bool again) {
  failed_attempts.emplace_back(verdict.reason, again);
  at_attempt_end();
}

void RecordingObserver::OnTrialEnd(const Trial& trial) {
  ends.push_back(trial.number);
  at_trial_end(trial);
}

}  // namespace hproc::controller
