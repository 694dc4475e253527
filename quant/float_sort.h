// Sorting floats by radix: the quantizer sorts every channel and every group of one, and most checkpoints hold bfloat16
// values, whose low two bytes need no pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hproc::quant {

// Thread-compatible; keeps its buffers from call to call.
class FloatSorter {
 public:
  // sorted[i] is the i-th smallest of `values` and order[i] its index; equal values stand in the order of their indices,
  // and -0 is given back as 0. The values must not be NaN.
  void Sort(std::span<const float> values, std::vector<float>& sorted, std::vector<uint32_t>& order);

 private:
  std::vector<uint64_t> keys_;
  std::vector<uint64_t> other_;
};

}  // namespace hproc::quant
