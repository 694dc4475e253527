#include "controller/describe.h"

#include <fmt/ranges.h>

#include "base/bytes.h"
#include "base/printable.h"
#include "controller/search.h"
#include "evals/statistics.h"

namespace hproc::controller {

std::string FloorsText(const quant::Floors& floors, bool has_lazy) {
  return has_lazy ? fmt::format("({:.6g}, {:.6g})", floors.strict, floors.lazy) : fmt::format("{:.6g}", floors.strict);
}

std::string FloorsText(const Trial& trial, bool has_lazy) {
  return trial.plan.kind == TrialKind::kPoint ? FloorsText(trial.plan.floors, has_lazy) : "-";
}

std::string_view BaselineName(TrialKind kind) {
  switch (kind) {
    case TrialKind::kPoint: break;
    case TrialKind::kBaseline16Bit: return "16 bits";
    case TrialKind::kBaselineInt4: return "INT4 g128";
    case TrialKind::kBaselineInt4Pruned: return "INT4 pruned";
  }
  return "point";
}

std::string AccuracyText(const AccuracyTally& tally) {
  if (tally.total == 0) return "not measured";
  if (!tally.all_questions) {
    return fmt::format("{} of the first {} right; stopped early, which is no accuracy", tally.strict_correct, tally.total);
  }
  const evals::Interval interval = evals::AccuracyInterval(tally);
  std::string text = fmt::format("{:.4f} ({} of {}; 95 % interval {:.4f} to {:.4f})",
                                 static_cast<double>(tally.strict_correct) / tally.total, tally.strict_correct,
                                 tally.total, interval.low, interval.high);
  if (tally.strict_by_seed.size() > 1) {
    const int questions = tally.total / static_cast<int>(tally.strict_by_seed.size());
    text += fmt::format("; right seed by seed, of {}: {}", questions, fmt::join(tally.strict_by_seed, ", "));
  }
  if (evals::TooManyTruncated(tally)) text += fmt::format("; flagged: {} answers were cut off", tally.truncated);
  return text;
}

std::string VerdictText(const Trial& trial) {
  const Verdict& verdict = trial.verdict;
  switch (trial.state) {
    case TrialState::kComplete: {
      if (trial.plan.kind == TrialKind::kPoint && DepthOf(trial.plan.purpose) != Depth::kEvaluate) {
        return trial.plan.purpose == PurposeName(Purpose::kGarbageEdge) ? "sensible" : "fits";
      }
      const AccuracyTally& tally = trial.measured.accuracy;
      if (!tally.all_questions) return PrintableLine(verdict.message);
      const std::string remark = verdict.message.empty() ? "" : "; " + PrintableLine(verdict.message);
      return fmt::format("{} of {} right{}", tally.strict_correct, tally.total, remark);
    }
    case TrialState::kInfeasible:
    case TrialState::kFailed: {
      std::string text(ReasonName(verdict.reason));
      if (!verdict.phase.empty()) text += " at " + PrintableLine(verdict.phase);
      // Of a machine's several devices; there is one CPU.
      if (!verdict.device.empty() && verdict.device != "cpu") text += " on " + PrintableLine(verdict.device);
      if (verdict.short_bytes > 0) text += ", short " + FormatBytes(verdict.short_bytes);
      if (!verdict.message.empty()) text += ": " + PrintableLine(verdict.message);
      return text;
    }
    default: return std::string(TrialStateName(trial.state));
  }
}

std::string RateText(const std::vector<evals::ThroughputSample>& samples, evals::ThroughputKind kind) {
  for (const evals::ThroughputSummary& s : evals::SummarizeThroughput(samples)) {
    if (s.kind == kind) return fmt::format("{:.0f} ± {:.0f} tok/s", s.mean_tok_per_s, s.sd_tok_per_s);
  }
  return "not measured";
}

}  // namespace hproc::controller
