#include "web/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "base/bytes.h"
#include "controller/describe.h"
#include "controller/plane_text.h"
#include "controller/search.h"
#include "controller/tuner.h"
#include "evals/statistics.h"
#include "quant/plan.h"
#include "web/plots.h"

namespace hproc::web {
namespace {

using controller::AccuracyText;
using controller::Comparison;
using controller::FloorsText;
using controller::RateText;
using controller::Reason;
using controller::Trial;
using controller::TrialKind;
using controller::TrialState;
using controller::VerdictText;
using evals::ThroughputKind;

constexpr size_t kTranscripts = 3;          // shown of a garbage trial
constexpr size_t kTranscriptBytes = 600;    // of each, at most
constexpr double kSignificance = 0.05;

std::string Words(std::string_view name) {
  std::string words(name);
  std::ranges::replace(words, '_', ' ');
  return words;
}

std::string Cut(const std::string& text, size_t bytes) {
  return text.size() <= bytes ? text : text.substr(0, bytes) + fmt::format(" … ({} bytes more)", text.size() - bytes);
}

std::string MeasuredBytes(const Trial& trial) {
  return trial.measured.memory && trial.state == TrialState::kComplete ? FormatBytes(trial.measured.memory->live_bytes) : "-";
}

std::string ShortAccuracy(const Trial& trial) {
  const controller::AccuracyTally& tally = trial.measured.accuracy;
  if (tally.total == 0) return "-";
  if (!tally.all_questions) return fmt::format("stopped after {}", tally.total);
  const evals::Interval interval = evals::AccuracyInterval(tally);
  return fmt::format("{:.4f} ({:.4f} to {:.4f}){}", static_cast<double>(tally.strict_correct) / tally.total, interval.low,
                     interval.high, evals::TooManyTruncated(tally) ? ", many cut short" : "");
}

std::string ShortRate(const Trial& trial) {
  return trial.measured.throughput.empty() ? "-" : RateText(trial.measured.throughput, ThroughputKind::kLongDecode);
}

class Report {
 public:
  Report(controller::Store& store, const ReportInput& input)
      : store_(store), input_(input), study_(input.study), trials_(input.trials), done_(input.outcome.done) {}

  Result<Document> Make() {
    document_.title = "Operating point of " + study_.spec.name;
    Setting();
    Recommendation();
    Plane();
    Trials();
    Pareto();
    Baselines();
    Ledger();
    if (Result<void> garbage = Garbage(); !garbage.ok()) return garbage.error();
    Cost();
    return std::move(document_);
  }

 private:
  template <typename T>
  void Add(T block) {
    document_.blocks.emplace_back(std::move(block));
  }
  const Trial* Best() const { return done_.recommended ? &trials_[static_cast<size_t>(*done_.recommended)] : nullptr; }
  std::string Floors(const Trial& trial) const { return FloorsText(trial, input_.space.has_lazy()); }

  void Setting() {
    const controller::StudySpec& spec = study_.spec;
    Table table{.head = {"study", spec.name}, .rows = {}};
    table.rows = {
        {"model", spec.model_dir},
        {"checkpoint", spec.fingerprint},
        {"device", spec.device_name},
        {"memory cap", FormatBytes(spec.memory_cap_bytes) +
                           (spec.headroom_bytes > 0 ? ", " + FormatBytes(spec.headroom_bytes) + " of it to stay free" : "")},
        {"deployment", fmt::format("context {}, batch {}, tensor parallel {}", spec.deployment.context, spec.deployment.batch,
                                   spec.deployment.world_size)},
        {"questions", fmt::format("{}{}, {} shots, {} seed{}", spec.eval.task_id,
                                  spec.eval.limit > 0 ? fmt::format(", the first {}", spec.eval.limit) : "", spec.eval.shots,
                                  spec.eval.seeds, spec.eval.seeds == 1 ? "" : "s")},
        {"strategy", spec.strategy},
        {"worker", spec.worker_version},
        {"begun", study_.created_utc},
    };
    Add(std::move(table));
  }

  void Recommendation() {
    Add(Heading{2, "Recommendation"});
    if (!input_.finished) Add(Paragraph{"The search is not finished; what follows is what is known so far."});
    for (const std::string& alarm : done_.alarms) Add(Paragraph{"Alarm: " + alarm});
    const Trial* best = Best();
    if (best == nullptr) {
      Add(Paragraph{done_.fault ? "No recommendation: " + done_.why
                                : "No feasible point: " + done_.why + fmt::format(" ({}).", BoundName(done_.bound))});
      return;
    }
    const int64_t live = best->measured.memory->live_bytes;
    const int64_t predicted = best->plan.predicted_bytes;
    Table table{.head = {"operating point", fmt::format("trial {}, floors {}", best->number, Floors(*best))}, .rows = {}};
    table.rows = {
        {"bits per weight", fmt::format("{:.3f}, everything counted", best->plan.bits_per_weight)},
        {"accuracy", AccuracyText(best->measured.accuracy)},
        {"memory", fmt::format("{} measured, {} predicted ({:+.2f} %)", FormatBytes(live), FormatBytes(predicted),
                               100.0 * (static_cast<double>(live) / static_cast<double>(predicted) - 1))},
        {"headroom", fmt::format("{} of {}", FormatBytes(study_.spec.memory_cap_bytes - live),
                                 FormatBytes(study_.spec.memory_cap_bytes))},
        {"decode", fmt::format("{} long, {} short", RateText(best->measured.throughput, ThroughputKind::kLongDecode),
                               RateText(best->measured.throughput, ThroughputKind::kShortDecode))},
        {"prefill", RateText(best->measured.throughput, ThroughputKind::kPrefill)},
        {"what binds it", fmt::format("{}: {}", Words(BoundName(done_.bound)), done_.why)},
        {"plan", best->plan.plan_digest},
    };
    Add(std::move(table));
  }

  void Plane() {
    const std::string svg = PlaneSvg(study_, input_.space, trials_, done_.recommended);
    if (svg.empty()) return;
    Add(Heading{2, "The floor plane"});
    Add(Figure{.svg = svg,
               .caption = "Green: predicted to fit. Amber: garbage, by what was seen. Star: recommended; disc: all questions "
                          "answered; ring: stopped early; square: loaded or made sense; cross: out of memory; triangle: "
                          "garbage.",
               .plain = input_.plane_text});
  }

  void Trials() {
    Add(Heading{2, "Trials"});
    Table table{.head = {"trial", "what", "floors", "bits", "predicted", "measured", "accuracy", "decode", "verdict"}, .rows = {}};
    for (const Trial& trial : trials_) {
      const bool is_point = trial.plan.kind == TrialKind::kPoint;
      table.rows.push_back({fmt::format("{}{}", trial.number, done_.recommended == trial.number ? " ★" : ""),
                            Words(is_point ? std::string_view(trial.plan.purpose) : TrialKindName(trial.plan.kind)),
                            Floors(trial), fmt::format("{:.3f}", trial.plan.bits_per_weight),
                            FormatBytes(trial.plan.predicted_bytes), MeasuredBytes(trial), ShortAccuracy(trial),
                            ShortRate(trial), VerdictText(trial)});
    }
    Add(std::move(table));
  }

  void Pareto() {
    const std::string svg = ParetoSvg(trials_, done_.recommended);
    if (svg.empty()) return;
    Add(Heading{2, "Accuracy against bytes"});
    Add(Figure{.svg = svg,
               .caption = "Trials that answered all questions; the lines are 95 % intervals, larger glyphs decode faster.",
               .plain = {}});
    const std::vector<int> frontier = ParetoFrontier(FactsOf(trials_, input_.space));
    std::string numbers;
    for (const int number : frontier) numbers += (numbers.empty() ? "" : ", ") + std::to_string(number);
    Add(Paragraph{"Not beaten in accuracy, decode rate and bytes at once by any other: trial " + numbers + "."});
  }

  void Baselines() {
    const Trial* best = Best();
    if (best == nullptr) return;
    Add(Heading{2, "Against the baselines"});
    const int64_t budget = study_.spec.budget_bytes();
    Add(Paragraph{fmt::format("Rounded to nearest at 4 bits in groups of 128 the weights would take {}, {} in all: {}.",
                              FormatBytes(input_.outcome.int4_weight_bytes), FormatBytes(input_.outcome.int4_total_bytes),
                              input_.outcome.int4_total_bytes <= budget ? "that fits too" : "that does not fit")});
    bool any = false;
    for (const Trial& trial : trials_) {
      if (trial.plan.kind == TrialKind::kPoint) continue;
      any = true;
      if (trial.plan.kind == TrialKind::kBaselineInt4Pruned) {
        Add(Paragraph{fmt::format("Trial {} is INT4 with {} routed experts a layer left, as many as the recommended point's bytes "
                                  "have room for: those whose router row, gate and up, and down projections have the largest "
                                  "product of norms.", trial.number, ExpertsOf(trial))});
      }
      const bool compared = std::ranges::any_of(input_.outcome.baselines,
                                                [&](const Comparison& c) { return c.baseline == trial.number; });
      if (compared) continue;
      Add(Paragraph{fmt::format("Trial {}, {}, cannot be compared: {}.", trial.number, Words(TrialKindName(trial.plan.kind)),
                                VerdictText(trial))});
    }
    if (!any) Add(Paragraph{"No baseline was run in this study (hproc tune --baseline-16bit --baseline-int4 --baseline-int4-pruned)."});
    if (input_.outcome.baselines.empty()) return;
    Table table{.head = {"", "bytes", "decode", "accuracy", "right here alone", "p"}, .rows = {}};
    table.rows.push_back({"recommended", MeasuredBytes(*best), ShortRate(*best), ShortAccuracy(*best), "", ""});
    for (const Comparison& comparison : input_.outcome.baselines) {
      const Trial& baseline = trials_[static_cast<size_t>(comparison.baseline)];
      table.rows.push_back({Words(TrialKindName(comparison.kind)) + (comparison.fits ? "" : " (does not fit)"),
                            MeasuredBytes(baseline), ShortRate(baseline), ShortAccuracy(baseline),
                            fmt::format("{}, the recommended point {}", comparison.only_baseline_right,
                                        comparison.only_point_right),
                            fmt::format("{:.3g}", comparison.p)});
    }
    Add(std::move(table));
    for (const Comparison& comparison : input_.outcome.baselines) Add(Paragraph{Sentence(*best, comparison)});
  }

  // Routed experts a layer in a trial's plan.
  static int64_t ExpertsOf(const Trial& trial) {
    int64_t experts = 0;
    const Result<quant::Plan> plan = quant::PlanFromJson(trial.plan.plan_json);
    if (!plan.ok()) return 0;
    for (const quant::TensorPlan& tensor : plan->tensors) experts = std::max(experts, tensor.spec.experts);
    return experts;
  }

  std::string Sentence(const Trial& best, const Comparison& comparison) const {
    const Trial& baseline = trials_[static_cast<size_t>(comparison.baseline)];
    const double share = 100.0 * static_cast<double>(best.measured.memory->live_bytes) /
                         static_cast<double>(baseline.measured.memory->live_bytes);
    std::string verdict = "the questions do not tell the two apart";
    if (comparison.p < kSignificance) {
      verdict = comparison.only_point_right > comparison.only_baseline_right ? "the recommended point answers better"
                                                                              : "the baseline answers better";
    }
    return fmt::format("Against {}: {:.0f} % of its bytes; {} (McNemar on the {} questions that one of them alone got right, "
                       "mid-p {:.3g}).",
                       Words(TrialKindName(comparison.kind)), share, verdict,
                       comparison.only_baseline_right + comparison.only_point_right, comparison.p);
  }

  void Ledger() {
    const Trial* best = Best();
    if (best == nullptr) return;
    Add(Heading{2, fmt::format("Memory of trial {}", best->number)});
    std::map<std::string, int64_t> predicted;
    for (const worker::LedgerLine& line : best->measured.predicted) predicted[line.name] += line.bytes;
    Table table{.head = {"what", "measured", "predicted"}, .rows = {}};
    for (const worker::LedgerLine& line : best->measured.memory->lines) {
      const auto found = predicted.find(line.name);
      table.rows.push_back({Words(line.name), FormatBytes(line.bytes), found == predicted.end() ? "-" : FormatBytes(found->second)});
    }
    table.rows.push_back({"in all", FormatBytes(best->measured.memory->live_bytes), FormatBytes(best->plan.predicted_bytes)});
    table.rows.push_back({"peak while loading", FormatBytes(best->measured.memory->peak_bytes), "-"});
    // The lines above are the tightest device's.
    for (size_t rank = 0; rank < best->measured.ranks.size(); ++rank) {
      const worker::MemoryEvent& of_rank = best->measured.ranks[rank];
      table.rows.push_back({fmt::format("rank {} on {}, in all", rank, of_rank.device), FormatBytes(of_rank.live_bytes), "-"});
    }
    Add(std::move(table));
  }

  Result<void> Garbage() {
    bool first = true;
    for (const Trial& trial : trials_) {
      if (trial.state != TrialState::kInfeasible || trial.verdict.reason != Reason::kGarbageOutput) continue;
      if (first) Add(Heading{2, "What was called garbage"});
      first = false;
      Add(Heading{3, fmt::format("Trial {}, floors {}", trial.number, Floors(trial))});
      Add(Paragraph{trial.verdict.message});
      Result<std::vector<controller::Answer>> answers = store_.ListAnswers(trial.id);
      if (!answers.ok()) return answers.error();
      size_t shown = 0;
      for (const controller::Answer& answer : *answers) {
        if (answer.stage != "probe" || shown == kTranscripts) continue;
        ++shown;
        Add(Verbatim{Cut(answer.text, kTranscriptBytes)});
      }
    }
    return {};
  }

  void Cost() {
    Add(Heading{2, "What the search took"});
    size_t loads = 0;
    std::map<std::string, double> seconds;
    for (const Trial& trial : trials_) {
      loads += trial.attempts.size();
      for (const auto& [phase, s] : trial.measured.phase_seconds) seconds[phase] += s;
    }
    Add(Paragraph{fmt::format("{} trials, {} loads, retries included.", trials_.size(), loads)});
    Table table{.head = {"phase", "seconds in all"}, .rows = {}};
    for (const auto& [phase, s] : seconds) table.rows.push_back({phase, fmt::format("{:.1f}", s)});
    if (!table.rows.empty()) Add(std::move(table));
  }

  controller::Store& store_;
  const ReportInput& input_;
  const controller::Study& study_;
  const std::vector<Trial>& trials_;
  const controller::SearchDone& done_;
  Document document_;
};

}  // namespace

Result<Document> MakeReport(controller::Store& store, const ReportInput& input) { return Report(store, input).Make(); }

Result<Document> ReportOf(controller::Store& store, const controller::Study& study, const std::vector<Trial>& trials,
                          const controller::PlanSpace& space) {
  const controller::SearchSpec spec = controller::SearchSpecOf(study.spec, space);
  const std::vector<controller::TrialFact> facts = controller::FactsOf(trials, space);
  const controller::SearchStep step = NextStep(spec, space, facts);
  const auto* done = std::get_if<controller::SearchDone>(&step);
  Result<controller::StudyOutcome> outcome =
      OutcomeOf(store, study.spec, space, trials, done != nullptr ? *done : ConcludeNow(spec, space, facts));
  if (!outcome.ok()) return outcome.error();
  const std::optional<int> recommended = outcome->done.recommended;
  return MakeReport(store, {.study = study,
                            .trials = trials,
                            .space = space,
                            .outcome = std::move(*outcome),
                            .finished = done != nullptr,
                            .plane_text = PlaneText(study, space, trials, recommended)});
}

}  // namespace hproc::web
