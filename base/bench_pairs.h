// Two things timed by turns in one run, so that whatever else the machine does falls on both: what a bench reports is
// the ratio of neighbours, its median and its spread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace hproc {

// Seconds that `body` takes.
template <typename Body>
double SecondsOf(Body&& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The value below which `share` of the values lie. `values` must not be empty.
inline double Quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

struct BenchPairs {
  std::vector<double> ours;    // seconds
  std::vector<double> theirs;  // seconds, ours[i] and theirs[i] one after the other

  void Add(double our_seconds, double their_seconds) {
    ours.push_back(our_seconds);
    theirs.push_back(their_seconds);
  }
  // How many times faster ours is.
  std::vector<double> Ratios() const {
    std::vector<double> ratios;
    for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(theirs[i] / ours[i]);
    return ratios;
  }

  // Medians and the spread of the ratio into a benchmark's counters.
  template <typename Counters>
  void Report(Counters& counters) const {
    const std::vector<double> ratios = Ratios();
    counters["ours_us"] = 1e6 * Quantile(ours, 0.5);
    counters["blas_us"] = 1e6 * Quantile(theirs, 0.5);
    counters["ratio"] = Quantile(ratios, 0.5);
    counters["ratio_p10"] = Quantile(ratios, 0.1);
    counters["ratio_p90"] = Quantile(ratios, 0.9);
  }
};

}  // namespace hproc
