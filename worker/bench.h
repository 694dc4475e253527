// Bench: how fast a model prefills and decodes, and what loading it takes, as rows.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "evals/throughput.h"
#include "quant/floors.h"
#include "worker/protocol.h"

namespace hproc::worker {

struct BenchOptions {
  std::string model;  // a folder, or synthetic:CONFIG.json
  Deployment deployment;
  std::array<int, quant::kFamilyCount> levels{};  // V2, by family; all 0: as stored
  evals::ThroughputSpec throughput;
};

// What adding up over the ranks costs a decode step: two sums a layer of batch x hidden values, timed by themselves.
struct SumTimes {
  double step_seconds = 0;
  int64_t sum_bytes = 0;              // of one sum
  double large_bus_bytes_per_s = 0;   // of a sum of 64 MiB: bytes * 2 (n - 1) / n / time, as nccl-tests has it
};

struct BenchReport {
  std::string model;        // model_type and weights: "qwen3_5_moe_text 122.1B"
  std::string device_name;
  LoadResult load;
  int64_t weights = 0;
  std::vector<LedgerLine> ledger;  // with the caches and activations in place
  int64_t peak_bytes = 0;          // of loading
  int64_t live_bytes = 0;
  std::vector<evals::ThroughputSummary> rows;
  std::optional<SumTimes> sums;  // of several ranks
};

// Loads the model under uniform levels and times it. Throws what the device throws.
Result<BenchReport> RunBench(const BenchOptions& options);

}  // namespace hproc::worker
