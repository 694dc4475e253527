// PlanSpace: the floor plane of one study. Every pair of floors with what it resolves to and the bytes that takes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quant/plan.h"
#include "quant/rate_table.h"
#include "worker/protocol.h"

namespace hproc::controller {

// A pair of floors as rungs of the ladder (quant/floors.h): what the search walks on.
struct FloorPair {
  int strict = 0;
  int lazy = 0;

  auto operator<=>(const FloorPair&) const = default;
};

// What a pair of floors resolves to, with the rest of the memory added.
struct PlannedPoint {
  FloorPair at;
  quant::Plan plan;
  std::string digest;
  int64_t weight_bytes = 0;  // as allocated
  int64_t total_bytes = 0;   // weights, cache, state, activations: what is held once loaded
  double strict_deficit = 0;  // mean over weights of 1 - cosine
  double lazy_deficit = 0;
};

// Thread-compatible. Resolves on demand and remembers; a point takes about a millisecond.
class PlanSpace {
 public:
  // `others`: the ledger's lines beside the weights, workspace_peak among them. Allocations are counted in multiples of
  // `granularity` bytes. `ranks`: of several, what each holds and needs besides, in place of `others`; bytes are then those of
  // the rank that holds most. `arranged`: as MeasureResult's. How a tensor's outliers spread over its rows and columns shows with the load: they are shared out
  // evenly here.
  PlanSpace(quant::RateTable table, quant::ModePolicy policy, double head_floor, std::vector<worker::LedgerLine> others,
            int64_t granularity, std::vector<worker::RankForecast> ranks = {}, std::string arranged = {});
  ~PlanSpace();

  const PlannedPoint& At(FloorPair at) const;
  quant::Floors FloorsAt(FloorPair at) const;
  FloorPair PairOf(const quant::Floors& floors) const;

  // What must fit for the pair to load and run: the weights and whatever is the most beside them. From sums kept by
  // family: no plan is made.
  int64_t NeededBytes(FloorPair at) const;
  // `cap_bytes`, or what the device with the least memory free has where that is less; of several ranks alone.
  int64_t LeastRoom(int64_t cap_bytes) const;
  // The ledger that a plan of this checkpoint predicts, the lines as the worker names them; of several, the tightest rank's.
  std::vector<worker::LedgerLine> Ledger(const quant::Plan& plan) const;
  // Mean deficits of the families at a rung, likewise.
  double StrictDeficit(int rung) const { return strict_[static_cast<size_t>(rung)].deficit; }
  double LazyDeficit(int rung) const { return lazy_[static_cast<size_t>(rung)].deficit; }
  int64_t StrictBytes(int rung) const { return strict_[static_cast<size_t>(rung)].bytes; }

  // False for dense models: the lazy floor then decides nothing.
  bool has_lazy() const { return has_lazy_; }
  const quant::RateTable& table() const { return table_; }

  // The 16-bit baseline: everything as stored.
  PlannedPoint Kept() const;
  // The INT4 baseline: every quantized matrix, lm_head included, rounded to nearest in groups of 128 columns, and the rest
  // as stored. Its bytes are those of the container that it is run from (quant/round_to_nearest.h).
  PlannedPoint Int4() const;
  // The same with as many of the routed experts as `weight_bytes` have room for, one at least; none in a dense model, where
  // that is too many still, or where all of them fit.
  std::optional<PlannedPoint> Int4Pruned(int64_t weight_bytes) const;
  // What the same would take in a format of its own: 4 bits a weight and an fp16 scale a group, the size people quote.
  int64_t Int4WeightBytes() const;
  // With what is held beside them, on the device that holds most.
  int64_t Int4TotalBytes() const;
  // Held beside the weights once loaded: cache, state, activations. Of the rank that holds most.
  int64_t OtherBytes() const;

 private:
  struct Rung {
    int64_t bytes = 0;  // of the whole model
    std::vector<int64_t> by_rank;
    double deficit = 0;
  };
  // What a rank holds; one that holds everything has no parts.
  struct Holder {
    std::vector<worker::PartSize> parts;
    std::vector<worker::LedgerLine> others;
    int64_t other_bytes = 0;  // held beside the weights once loaded
    int64_t fixed_bytes = 0;  // needed beside the strict and lazy tensors
  };
  // The layout of tensor `at` under its plan on a rank; of a kept tensor nothing but total_bytes.
  quant::XfpLayout PartOf(const quant::TensorPlan& tensor, const Holder& holder, size_t at) const;
  const Holder& TightestOf(const quant::Plan& plan) const;
  int64_t WeightBytesOf(const quant::Plan& plan, const Holder& holder) const;
  int64_t Int4WeightBytes(const Holder& holder) const;
  PlannedPoint Describe(FloorPair at, quant::Plan plan) const;
  int64_t Allocated(int64_t bytes) const { return (bytes + granularity_ - 1) / granularity_ * granularity_; }

  quant::RateTable table_;
  quant::ModePolicy policy_;
  double head_floor_;
  int64_t granularity_;
  std::string arranged_;  // by tensor; empty: none
  std::vector<Holder> holders_;  // one, or one a rank
  int64_t least_free_bytes_ = 0;  // of the ranks' devices; 0: nobody says
  bool has_lazy_ = false;
  std::vector<Rung> strict_;  // by ladder index
  std::vector<Rung> lazy_;
  mutable std::map<FloorPair, std::unique_ptr<PlannedPoint>> points_;
};

}  // namespace hproc::controller
