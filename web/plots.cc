#include "web/plots.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/bytes.h"
#include "controller/describe.h"
#include "controller/plane_window.h"
#include "controller/search.h"
#include "controller/tuner.h"
#include "evals/statistics.h"
#include "web/document.h"

namespace hproc::web {
namespace {

using controller::Depth;
using controller::FloorPair;
using controller::FloorsText;
using controller::PlanSpace;
using controller::Study;
using controller::Trial;
using controller::TrialState;
using controller::VerdictText;

constexpr double kWidth = 720;
constexpr double kHeight = 420;
constexpr double kLeft = 62;
constexpr double kRight = 20;
constexpr double kTop = 16;
constexpr double kBottom = 46;

// A range of values on the page, from one pixel to another.
struct Scale {
  double from;
  double to;
  double first_pixel;
  double last_pixel;

  double At(double value) const {
    return to == from ? first_pixel : first_pixel + (value - from) / (to - from) * (last_pixel - first_pixel);
  }
};

std::string Text(double x, double y, std::string_view anchor, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", x, y, anchor, EscapeHtml(text));
}

std::string Line(double x1, double y1, double x2, double y2, std::string_view colour) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"var(--{})\"/>", x1, y1, x2, y2,
                     colour);
}

// A star, disc, ring, square, cross, triangle or bar, with a title that a pointer shows and a screen reader reads.
std::string Glyph(double x, double y, double size, const Trial& trial, std::optional<int> recommended, bool has_lazy) {
  const std::string title = fmt::format("trial {} {}: {}", trial.number, FloorsText(trial, has_lazy),
                                        VerdictText(trial));
  const auto shape = [&]() -> std::string {
    const auto path = [&](std::string_view d, bool filled, std::string_view colour) {
      return fmt::format("<path d=\"{}\" transform=\"translate({:.1f} {:.1f}) scale({:.2f})\" fill=\"{}\" stroke=\"var(--{})\""
                         " stroke-width=\"1.6\" vector-effect=\"non-scaling-stroke\"/>",
                         d, x, y, size, filled ? fmt::format("var(--{})", colour) : "none", colour);
    };
    if (recommended == trial.number) {
      return path("M0-1.5L.4-.45 1.45-.45 .6.2 .9 1.25 0 .6-.9 1.25-.6.2-1.45-.45-.4-.45Z", true, "best");
    }
    constexpr std::string_view kDisc = "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1-1 0Z";
    switch (trial.state) {
      case TrialState::kComplete:
        if (controller::DepthOf(trial.plan.purpose) != Depth::kEvaluate && trial.plan.kind == controller::TrialKind::kPoint) {
          return path("M-.8-.8H.8V.8H-.8Z", false, "point");
        }
        return path(kDisc, trial.measured.accuracy.all_questions, "point");
      case TrialState::kInfeasible:
        return trial.verdict.reason == controller::Reason::kOutOfMemory ? path("M-.9-.9L.9.9M.9-.9L-.9.9", false, "best")
                                                                        : path("M0-1L1 .8H-1Z", false, "best");
      default: return path("M0-1V.3M0 .8V1", false, "faint");
    }
  }();
  return fmt::format("<g><title>{}</title>{}</g>", EscapeHtml(title), shape);
}

std::string Open(std::string_view label) {
  return fmt::format("<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">", kWidth, kHeight, EscapeHtml(label));
}

}  // namespace

std::string PlaneSvg(const Study& study, const PlanSpace& space, const std::vector<Trial>& trials,
                     std::optional<int> recommended) {
  if (!space.has_lazy()) return {};
  const controller::SearchSpec spec = controller::SearchSpecOf(study.spec, space);
  const std::vector<FloorPair> frontier = PredictedFrontier(spec, space, spec.budget_bytes);
  const controller::PlaneWindow window = WindowOf(study, space, trials);
  const Scale x{static_cast<double>(window.lowest.lazy), static_cast<double>(window.highest.lazy), kLeft, kWidth - kRight};
  const Scale y{static_cast<double>(window.lowest.strict), static_cast<double>(window.highest.strict), kHeight - kBottom, kTop};

  std::string svg = Open("The floor plane: which pairs of floors fit, and every trial");
  // The staircase from the left edge to the bottom.
  if (!frontier.empty()) {
    std::string path = fmt::format("M{:.1f} {:.1f}", x.At(x.from), y.At(y.from));
    for (auto corner = frontier.rbegin(); corner != frontier.rend(); ++corner) {
      path += fmt::format("V{:.1f}H{:.1f}", y.At(corner->strict), x.At(corner->lazy));
    }
    svg += fmt::format("<path d=\"{}V{:.1f}Z\" fill=\"var(--fit)\" stroke=\"var(--ink)\"/>", path, y.At(y.from));
  }
  for (const Trial& trial : trials) {
    if (trial.plan.kind != controller::TrialKind::kPoint) continue;  // a baseline marks no boundary
    if (trial.state != TrialState::kInfeasible || trial.verdict.reason != controller::Reason::kGarbageOutput) continue;
    const FloorPair at = space.PairOf(trial.plan.floors);
    svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"var(--garbage)\"/>", kLeft,
                       y.At(at.strict), x.At(at.lazy) - kLeft, y.At(y.from) - y.At(at.strict));
  }
  svg += Line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "ink") + Line(kLeft, kTop, kLeft, kHeight - kBottom, "ink");
  double last_x = -std::numeric_limits<double>::infinity();
  double last_y = std::numeric_limits<double>::infinity();
  for (const double tick : {0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999, 0.9999, 1.0}) {
    const int rung = quant::LadderIndex(tick);
    if (rung >= x.from && rung <= x.to && x.At(rung) - last_x > 40) {
      last_x = x.At(rung);
      svg += Text(last_x, kHeight - kBottom + 18, "middle", fmt::format("{:g}", tick));
    }
    if (rung >= y.from && rung <= y.to && last_y - y.At(rung) > 18) {
      last_y = y.At(rung);
      svg += Text(kLeft - 8, last_y + 4, "end", fmt::format("{:g}", tick));
    }
  }
  svg += Text((kLeft + kWidth - kRight) / 2, kHeight - 8, "middle", "lazy floor (routed experts)");
  svg += fmt::format("<text transform=\"translate(14 {:.1f}) rotate(-90)\" text-anchor=\"middle\">strict floor</text>",
                     (kTop + kHeight - kBottom) / 2);
  for (const Trial& trial : trials) {
    if (trial.plan.kind != controller::TrialKind::kPoint || recommended == trial.number) continue;
    const FloorPair at = space.PairOf(trial.plan.floors);
    svg += Glyph(x.At(at.lazy), y.At(at.strict), 5, trial, recommended, true);
  }
  if (recommended) {
    const Trial& best = trials[static_cast<size_t>(*recommended)];
    const FloorPair at = space.PairOf(best.plan.floors);
    svg += Glyph(x.At(at.lazy), y.At(at.strict), 6, best, recommended, true);
  }
  return svg + "</svg>";
}

std::string ParetoSvg(const std::vector<Trial>& trials, std::optional<int> recommended) {
  struct Dot {
    const Trial* trial;
    double bytes;
    double rate;
    evals::Interval interval;
    double decode;
  };
  std::vector<Dot> dots;
  double fastest = 0;
  for (const Trial& trial : trials) {
    const controller::AccuracyTally& tally = trial.measured.accuracy;
    if (trial.state != TrialState::kComplete || !tally.all_questions || tally.total == 0 || !trial.measured.memory) continue;
    Dot dot{.trial = &trial,
            .bytes = static_cast<double>(trial.measured.memory->live_bytes),
            .rate = static_cast<double>(tally.strict_correct) / tally.total,
            .interval = evals::AccuracyInterval(tally),
            .decode = 0};
    for (const evals::ThroughputSummary& summary : evals::SummarizeThroughput(trial.measured.throughput)) {
      if (summary.kind == evals::ThroughputKind::kLongDecode) dot.decode = summary.mean_tok_per_s;
    }
    fastest = std::max(fastest, dot.decode);
    dots.push_back(dot);
  }
  if (dots.empty()) return {};
  double least_bytes = dots[0].bytes;
  double most_bytes = dots[0].bytes;
  double low = 1;
  double high = 0;
  for (const Dot& dot : dots) {
    least_bytes = std::min(least_bytes, dot.bytes);
    most_bytes = std::max(most_bytes, dot.bytes);
    low = std::min(low, dot.interval.low);
    high = std::max(high, dot.interval.high);
  }
  const double margin = std::max(0.05 * (most_bytes - least_bytes), 0.01 * most_bytes);
  const Scale x{least_bytes - margin, most_bytes + margin, kLeft, kWidth - kRight};
  const Scale y{std::floor(low * 50) / 50, std::ceil(high * 50) / 50, kHeight - kBottom, kTop};
  std::string svg = Open("Accuracy over measured bytes of the trials that answered all questions");
  const double step = y.to - y.from > 0.25 ? 0.1 : 0.02;
  for (double tick = std::ceil(y.from / step) * step; tick <= y.to + 1e-9; tick += step) {
    svg += Line(kLeft, y.At(tick), kWidth - kRight, y.At(tick), "line") + Text(kLeft - 8, y.At(tick) + 4, "end", fmt::format("{:.2f}", tick));
  }
  for (int i = 0; i <= 4; ++i) {
    const double bytes = x.from + (x.to - x.from) * i / 4;
    svg += Text(x.At(bytes), kHeight - kBottom + 18, i == 4 ? "end" : "middle", FormatBytes(static_cast<int64_t>(bytes)));
  }
  svg += Line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "ink");
  svg += Text((kLeft + kWidth - kRight) / 2, kHeight - 8, "middle", "measured bytes");
  svg += fmt::format("<text transform=\"translate(14 {:.1f}) rotate(-90)\" text-anchor=\"middle\">accuracy, 95 % interval</text>",
                     (kTop + kHeight - kBottom) / 2);
  for (const Dot& dot : dots) {
    svg += Line(x.At(dot.bytes), y.At(dot.interval.low), x.At(dot.bytes), y.At(dot.interval.high), "point");
    const double size = fastest > 0 ? 3 + 6 * std::sqrt(dot.decode / fastest) : 6;
    svg += Glyph(x.At(dot.bytes), y.At(dot.rate), size, *dot.trial, recommended, true);
  }
  return svg + "</svg>";
}

}  // namespace hproc::web
