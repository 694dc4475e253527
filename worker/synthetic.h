// Models of random weights: "synthetic:CONFIG.json" is a model of any shape without a download, to fit and to time. What it says is
// noise, so that it has no accuracy.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kernels/synthetic_rows.h"
#include "quant/rate_table.h"
#include "worker/synthetic_name.h"

namespace hproc::worker {

// What a tensor's rows are made from (kernels/synthetic_rows.h): a seed of its name, and row scales around columns^-0.5 that differ
// by a factor of up to 2 (a vector's is 0.02). Lengths, tails and outliers are as trained rows have them, and come at the speed of
// the memory.
kernels::SyntheticTensor SyntheticTensorOf(const quant::TensorSpec& spec);

// Rows [first_row, first_row + rows) of a synthetic tensor as bfloat16, the same at every call and on every device. Thread-safe.
void SyntheticRows(const quant::TensorSpec& spec, int64_t first_row, int64_t rows, std::span<std::byte> bytes);

}  // namespace hproc::worker
