// Models of random weights: "synthetic:CONFIG.json" is a model of any shape without a download, to fit and to time. What it says is
// noise, so that it has no accuracy.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "quant/rate_table.h"
#include "worker/synthetic_name.h"

namespace hproc::worker {

// Rows [first_row, first_row + rows) of a synthetic tensor as bfloat16, the same at every call. Rows are stretches of one long
// sequence of normal deviates, one in 512 of them four times as large, under a scale of their own around columns^-0.5 that differs by
// a factor of up to 2 (a vector's is 0.02): lengths, tails and outliers as trained rows have them, at the speed of the memory.
// Thread-safe.
void SyntheticRows(const quant::TensorSpec& spec, int64_t first_row, int64_t rows, std::span<std::byte> bytes);

}  // namespace hproc::worker
