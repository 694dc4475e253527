// The exported operating point: what a server consumes, with the evidence inside.
//
// operating_point.json holds the floors and the whole plan (no rate table is needed to load it again), the deployment and
// the caps it was proved under, predicted and measured memory, the accuracy with every question's outcome, throughput, the
// neighbours on each side that did not fit or talked garbage, and the versions of everything. `hproc verify` runs it again.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "controller/study.h"

namespace hproc::controller {

inline constexpr int kOperatingPointSchema = 1;

// A trial near the recommended one that marks a boundary.
struct BoundaryNeighbour {
  quant::Floors floors;
  int64_t predicted_bytes = 0;
  Verdict verdict;
};

struct OperatingPoint {
  int schema_version = kOperatingPointSchema;
  std::string study;
  std::string created_utc;
  quant::Floors floors;
  std::string plan_digest;
  std::string plan_json;  // quant/plan.h; an object under "plan" in the file
  double bits_per_weight = 0;
  int64_t predicted_bytes = 0;
  std::string bound;  // what keeps the floors from being higher
  std::string why;
  StudySpec spec;  // model, fingerprint, deployment of one trial, cap, protocol, versions, device; nothing of the launch
  worker::LoadResult load;
  worker::MemoryEvent memory;
  std::vector<worker::LedgerLine> predicted;
  AccuracyTally accuracy;
  // One character a question in the study's order, seed after seed: '1' right by strict match, '0' wrong.
  std::string outcomes;
  std::vector<evals::ThroughputSample> throughput;
  std::vector<BoundaryNeighbour> neighbours;  // the nearest trials that did not fit or talked garbage
};

// `trial` must be complete with all questions answered; the error says what is missing. `order` is the study's.
Result<OperatingPoint> MakeOperatingPoint(const Study& study, const std::vector<Trial>& trials, const Trial& trial,
                                          const std::vector<Answer>& answers, std::span<const int> order,
                                          std::string_view created_utc);

// The file: the struct's fields, the plan as an object under "plan", and "summary" with what people look for first
// (accuracy with its interval, rates, headroom), which is not read back.
std::string OperatingPointToJson(const OperatingPoint& point);
// Strict: a file of another schema version, with a key missing or a digest that does not match is an error.
Result<OperatingPoint> OperatingPointFromJson(std::string_view json);

}  // namespace hproc::controller
