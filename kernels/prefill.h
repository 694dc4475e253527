// Products of many tokens with weights in decode order, on a CUDA device: what a prompt multiplies. Tensor cores eat the tokens from
// shared memory, and the weights from registers, where every tile of tokens expands them anew; or, of large matrices and many
// tokens, from shared memory too, expanded once into scratch, some rows after the other.
//
// Arithmetic: that of kernels/decode.h, to the bit but for the outliers' order of addition. A token is a whole number of 16 bits by
// a scale, its high and low bytes are columns of their own of an int8 product, and all sums of those are exact.
//
// For devices of compute capability 9.0 (wgmma); others take the decode kernels, kMaxDecodeTokens tokens at a time. Errors, threads
// and pointers as there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/decode_order.h"

struct CUstream_st;

namespace hproc::kernels {

inline constexpr int kPrefillTokens = 64;  // of a tile
// What 128 rows take expanded.
constexpr int64_t LeastPrefillScratch(int64_t columns) { return (columns + kHalfColumns - 1) / kHalfColumns * kHalfColumns * 128; }

// Whether this build has the kernels and the current device can run them.
bool CanPrefill();

// Rows rounded for prefill: another order than the decode kernels'. RoundedRowBytes(columns) each.
struct PrefillRows {
  std::byte* values = nullptr;
  float* scales = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t columns = 0;
  // What outliers are multiplied with: [columns][rows] of the whole numbers. Null where no matrix that reads the rows has any.
  int16_t* transposed = nullptr;
};
// Rounds row source[r], or r where `source` is null, of `input` into row r.
void RoundPrefillRows(CUstream_st* stream, const float* input, int64_t input_stride, const int32_t* source, const PrefillRows& to);
// Fills `transposed` from the rest.
void TransposePrefillRows(CUstream_st* stream, const PrefillRows& rows);

// The scratch with which a product of `tokens` tokens is the fastest; 0 where it does better without.
int64_t PrefillScratchBytes(int64_t tokens, int64_t rows, int64_t columns);

// output[t][r] = dot(weight row r, row t).
struct PrefillMatmulCall {
  DecodeMatrix weight;
  PrefillRows input;
  float* output = nullptr;
  int64_t output_stride = 0;
  std::span<std::byte> scratch = {};  // aligned to 128 bytes; not used where below LeastPrefillScratch
};
void PrefillMatmul(CUstream_st* stream, const PrefillMatmulCall& call);

// A tile of routes: `count` of them from sorted place `first` on, all of one expert. count 0: there is none.
struct PrefillTile {
  int32_t expert = 0;
  int32_t first = 0;
  int32_t count = 0;
};
// How many tiles `routes` routes to `experts` experts make at most.
int64_t MostPrefillTiles(int64_t routes, int64_t experts);
// Sorts the routes by their expert: place p has route `route_of[p]` of token `token_of[p]`; tiles [MostPrefillTiles].
void SortRoutes(CUstream_st* stream, const int32_t* chosen, int64_t routes, int64_t top, int64_t experts, int32_t* token_of,
                int32_t* route_of, PrefillTile* tiles);

// output[p] = silu(gate_e x_p) * (up_e x_p) for every place p, whose row is input row p and whose expert e is its tile's; `weight` as
// of DecodeGateUpCall.
struct PrefillGateUpCall {
  DecodeMatrix weight;
  int64_t width = 0;
  int64_t experts = 0;
  PrefillRows input;
  const PrefillTile* tiles = nullptr;
  float* output = nullptr;  // [places, width]
};
void PrefillGateUp(CUstream_st* stream, const PrefillGateUpCall& call);

// output[route_of[p]] = down_e x_p; `weight` as of DecodeDownCall.
struct PrefillDownCall {
  DecodeMatrix weight;
  int64_t hidden = 0;
  int64_t experts = 0;
  PrefillRows input;
  const PrefillTile* tiles = nullptr;
  const int32_t* route_of = nullptr;
  float* output = nullptr;  // [routes, hidden]
};
void PrefillDown(CUstream_st* stream, const PrefillDownCall& call);

}  // namespace hproc::kernels
