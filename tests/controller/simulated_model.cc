#include "tests/controller/simulated_model.h"

#include <algorithm>
#include <random>
#include <utility>

namespace hproc::controller {
namespace {

quant::TensorRates MakeTensor(const std::string& name, quant::Family family, int64_t weights) {
  constexpr int64_t kColumns = 1024;
  quant::TensorRates rates;
  rates.spec = {.name = name, .family = family, .rows = std::max<int64_t>(1, weights / kColumns), .columns = kColumns,
                .bytes_per_value = 2};
  if (family == quant::Family::kKept) return rates;
  // The rung up to which a K reaches without outliers, and with the most of them.
  constexpr std::pair<int, std::pair<int, int>> kReach[] = {
      {2, {10, 60}}, {3, {40, 110}}, {4, {90, 170}}, {6, {150, 230}}, {8, {220, 300}}, {16, {310, 400}}, {32, {400, 500}},
      {64, {520, 610}}};
  constexpr int kSteps = 24;
  const int64_t most = rates.spec.weights() / 32;
  for (const auto& [levels, reach] : kReach) {
    quant::Candidate candidate;
    candidate.format = {.mode = quant::Mode::kV2, .levels = levels};
    candidate.highest = reach.second;
    for (int step = 0; step < kSteps; ++step) {
      const int rung = step == 0 ? 0 : reach.first + (reach.second - reach.first) * step / kSteps;
      candidate.steps.push_back({.ladder_index = rung, .outliers = most * step / kSteps,
                                 .min_cosine = static_cast<float>(quant::LadderFloor(std::max(rung, reach.first))),
                                 .mean_deficit = 0.8 * (1 - quant::LadderFloor(std::max(rung, reach.first)))});
    }
    rates.candidates.push_back(std::move(candidate));
  }
  return rates;
}

}  // namespace

std::unique_ptr<PlanSpace> MakeSimulatedSpace(const SimulatedShape& shape) {
  quant::RateTable table;
  table.fingerprint = "simulated";
  table.tensors.push_back(MakeTensor("attention", quant::Family::kStrict, shape.strict_weights));
  if (shape.lazy_weights > 0) table.tensors.push_back(MakeTensor("experts", quant::Family::kLazy, shape.lazy_weights));
  table.tensors.push_back(MakeTensor("embedding", quant::Family::kKept, shape.kept_weights));
  std::vector<worker::LedgerLine> others = {{.name = "kv_cache", .bytes = shape.others},
                                            {.name = "workspace_peak", .bytes = shape.workspace}};
  return std::make_unique<PlanSpace>(std::move(table), quant::ModePolicy::kAuto, 0.999, std::move(others), 64);
}

TrialFact Simulate(const PlanSpace& space, const SimulatedTruth& truth, const RunTrial& run, int number) {
  const PlannedPoint& point = space.At(run.at);
  TrialFact fact;
  fact.number = number;
  fact.at = run.at;
  fact.digest = point.digest;
  fact.depth = run.depth;
  fact.predicted_bytes = point.total_bytes;
  fact.state = TrialState::kComplete;
  const TrialState accident = truth.accident ? truth.accident(number, run.at) : TrialState::kWaiting;
  if (accident == TrialState::kFailed) {
    fact.state = TrialState::kFailed;
    fact.reason = Reason::kCrash;
    return fact;
  }
  const int64_t lie = truth.refused_by_mistake(number) ? truth.budget : 0;
  const int64_t needs = space.NeededBytes(run.at) + truth.overhead + lie;
  if (needs > truth.budget) {
    fact.state = TrialState::kInfeasible;
    fact.reason = Reason::kOutOfMemory;
    fact.short_bytes = needs - truth.budget;
    return fact;
  }
  fact.measured_bytes = point.total_bytes + truth.overhead;
  fact.peak_bytes = space.NeededBytes(run.at) + truth.overhead;
  if (run.depth == Depth::kLoad) return fact;
  if (truth.garbage(run.at)) {
    // As the trial runner has it: at floors beyond doubt it is the loader.
    const quant::Floors floors = space.FloorsAt(run.at);
    const bool loader = floors.strict >= 0.99 && floors.lazy >= 0.99;
    fact.state = loader ? TrialState::kFailed : TrialState::kInfeasible;
    fact.reason = loader ? Reason::kLoaderFault : Reason::kGarbageOutput;
    return fact;
  }
  if (run.depth == Depth::kEvaluate) {
    fact.accuracy = {.total = SimulatedTruth::kQuestions, .strict_correct = truth.correct(run.at), .all_questions = true};
    fact.decode_tok_per_s = 100;
    fact.decode_error = 1;
  }
  return fact;
}

SimulatedStudy RunSimulatedStudy(const SearchSpec& spec, const PlanSpace& space, const SimulatedTruth& truth, int parallel,
                                 unsigned seed) {
  std::mt19937 random(seed);
  SimulatedStudy study;
  std::vector<TrialFact> ends;           // of all trials, as they will be
  std::vector<size_t> in_flight;
  while (study.facts.size() < 1000) {
    SearchStep step = SearchWait{};
    if (static_cast<int>(in_flight.size()) < parallel) step = NextStep(spec, space, study.facts);
    if (SearchDone* done = std::get_if<SearchDone>(&step); done != nullptr) {
      study.done = *done;
      study.ended = in_flight.empty() || done->fault;
      break;
    }
    if (const RunTrial* run = std::get_if<RunTrial>(&step); run != nullptr) {
      const auto number = static_cast<int>(ends.size());
      ends.push_back(Simulate(space, truth, *run, number));
      TrialFact& begun = study.facts.emplace_back();
      begun.number = number;
      begun.at = run->at;
      begun.digest = ends.back().digest;
      begun.depth = run->depth;
      begun.predicted_bytes = ends.back().predicted_bytes;
      begun.state = TrialState::kRunning;
      study.purposes.push_back(run->purpose);
      in_flight.push_back(static_cast<size_t>(number));
      study.most_in_flight = std::max(study.most_in_flight, static_cast<int>(in_flight.size()));
      continue;
    }
    if (in_flight.empty()) break;  // it waits for nothing
    const size_t which = random() % in_flight.size();
    study.facts[in_flight[which]] = ends[in_flight[which]];
    in_flight.erase(in_flight.begin() + static_cast<std::ptrdiff_t>(which));
  }
  return study;
}

SearchSpec WholePlane(const PlanSpace& space, int64_t budget) {
  SearchSpec spec;
  spec.lowest = {0, 0};
  spec.highest = {quant::kLadderSize - 1, quant::kLadderSize - 1};
  if (!space.has_lazy()) spec.lowest.lazy = spec.highest.lazy;
  spec.budget_bytes = budget;
  return spec;
}

}  // namespace hproc::controller
