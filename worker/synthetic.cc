#include "worker/synthetic.h"

#include <cmath>

#include "base/check.h"

namespace hproc::worker {
namespace {

uint64_t SeedOf(const std::string& name) {
  uint64_t seed = 0xCBF29CE484222325;  // FNV-1a
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return seed;
}

}  // namespace

kernels::SyntheticTensor SyntheticTensorOf(const quant::TensorSpec& spec) {
  return {.seed = SeedOf(spec.name), .columns = spec.columns,
          .usual_scale = spec.rows == 1 ? 0.02f : 1 / std::sqrt(static_cast<float>(spec.columns))};
}

void SyntheticRows(const quant::TensorSpec& spec, int64_t first_row, int64_t rows, std::span<std::byte> bytes) {
  HPROC_CHECK(spec.bytes_per_value == 2, "synthetic weights are bfloat16");
  kernels::FillSyntheticRows(SyntheticTensorOf(spec), first_row, rows, bytes);
}

}  // namespace hproc::worker
