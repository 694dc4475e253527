// INT4 round-to-nearest, group size 128: the baseline that everybody has, as one more way to fill an XFP container.
//
// A row is cut into groups of kGroupColumns columns, the last of which may be shorter. Each has a scale, and its weights
// are rounded to the nearest of 16 evenly spaced levels, nothing fitted and no outliers:
//
//     w'[j] = scale of j's group * q[j],   q[j] = clamp(round(w[j] / scale), -8, 7)
//
// In the container (quant/xfp_matrix.h) that is V2a with group scales whose library has one book, the whole numbers -8
// to 7, so that it is loaded, counted and multiplied like any other matrix. It costs 4 bits a weight, 16 for each group's
// scale, 8 for each group's index and 512 bytes of library: 4.19 bits, where INT4 kernels proper need 4.125.
//
// The scale. Symmetric INT4 is found with three:
//
//   max|w| / 7    leaves one of the 16 levels unused                                           mean 1 - cosine  0.0070
//   max|w| / 7.5  IST-DASLab/gptq, quant.py, sym: (xmax - xmin) / maxq; compressed-tensors too                  0.0063
//   m / -8        m the signed value of largest magnitude: ggml-org/llama.cpp, ggml-quants.c,                   0.0055
//                 quantize_row_q4_0_ref (its groups are of 32); m falls on level -8
//
// (routed experts of evals/wordmath; attention and head rank the same). The last has the smallest step and is taken here:
// a baseline is to be beaten at its best. Codes are chosen for the scale as it is stored, in bfloat16.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/library_fit.h"
#include "quant/xfp_matrix.h"

namespace hproc::quant {

inline constexpr int kInt4Levels = 16;
inline constexpr int kInt4Lowest = -8;

// V2a, 16 levels, int8 centroids, group scales.
inline constexpr XfpFormat kInt4Format{.mode = Mode::kV2a, .levels = kInt4Levels, .centroids = Centroids::kInt8,
                                       .group_scales = true};

// Book 0 holds -8 to 7 in ascending order; the others are zero and never asked for.
Library Int4Library();

// One row rounded.
struct RoundedRow {
  std::vector<uint8_t> codes;    // [columns], level + 8
  std::vector<uint16_t> scales;  // [groups] bfloat16, either sign; 0 where the group is zero
  double cosine = 1;             // between the row and what it gives back; 1 for a row of zeros
  double norm_ratio = 1;
};

// `row`: one whole finite row, float32, not empty. Every weight comes back within 1/2 of its group's |scale|, but for
// those that lie beyond level 7, on the side opposite to the group's extreme: within 1 + 2^-4. Zero groups are exact.
// Thread-safe; no state.
void RoundToNearest(std::span<const float> row, RoundedRow& rounded);

}  // namespace hproc::quant
