// Products of a few tokens with weights in decode order, on a CUDA device: what one decode step multiplies. Bound by the
// bytes of the weights; kernels/RESULTS.md says how near.
//
// Arithmetic. A token x is rounded to whole numbers of 16 bits, x = scale * (256 * high + low) with scale = largest |x| /
// kDecodeActivationMax, and both bytes are multiplied with the int8 centroids in integer MMAs, whose sums are exact. So
//
//     |y - W x|  <=  largest |x| / kDecodeActivationMax / 2 * sum over columns of |w|     plus float32 rounding of the end,
//
// and the bits of y depend on that token and row alone: not on the other tokens, the grid or the device. Outliers are
// multiplied with the same rounded x in float32, in an order that depends on their count alone. Non-finite x give
// non-finite y.
//
// All pointers are device memory, float32 unless said otherwise, rows contiguous. Calls enqueue on the stream and return;
// they throw DeviceError where the launch is refused and never allocate, so they may be captured into a graph.
// Thread-safe between streams.
#pragma once

#include <cstdint>

#include <span>

#include "kernels/decode_order.h"
#include "kernels/gated_delta.h"

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace hproc::kernels {

inline constexpr int kMaxDecodeTokens = 16;
inline constexpr int kMaxDecodeTop = 32;
inline constexpr int kMaxDecodeTaps = 8;  // of a convolution in a product's launch
// 127 * 256 + 127: the largest number whose rounded high byte is 127.
inline constexpr int kDecodeActivationMax = 32639;
// A token whose largest |x| is below this counts as zero.
inline constexpr float kLeastActivation = 0x1p-100f;

struct DecodeStream {
  CUstream_st* stream = nullptr;
  // Lets the kernel start before the one in front of it on the stream has ended, and fetch its weights meanwhile; it
  // reads activations and expert ids only once that one is done (programmatic dependent launch). The weights must not be
  // written by the kernel in front.
  bool overlap = false;
  // At least DecodeWorkspaceBytes of the call; one call at a time uses it. May be null where that is 0.
  std::byte* workspace = nullptr;
};

// Tokens rounded once for all the products that read them, as LaunchRoundActivations (kernels/cuda/decode_params.h) or the kernel
// that made them did: rows of RoundedRowBytes, and a scale each.
struct RoundedRows {
  const std::byte* values = nullptr;
  const float* scales = nullptr;
};
int64_t RoundedRowBytes(int64_t columns);

// Where tokens are not given rounded and are too many to be rounded on chip, a kernel of its own does it.
int64_t DecodeWorkspaceBytes(int64_t tokens, int64_t columns);

// output[t][r] = dot(weight row r, input[t]) for t in [0, tokens), tokens in 1..kMaxDecodeTokens; added to what is there
// where `accumulate`.
struct DecodeMatmulCall {
  DecodeMatrix weight;
  const float* input = nullptr;  // [tokens, columns], 16-byte aligned; row t at input + t * input_stride
  int64_t input_stride = 0;      // in floats, a multiple of 4, at least columns; a row is readable to its stride
  RoundedRows rounded = {};      // of the input; or null
  int64_t tokens = 1;
  float* output = nullptr;  // row t at output + t * output_stride
  int64_t output_stride = 0;
  bool accumulate = false;
};
void DecodeMatmul(const DecodeStream& stream, const DecodeMatmulCall& call);

// A token that the products of a launch make for themselves, every block the whole of it, with what else reads the norm: what a
// NormAndProjectCall (moe.h) of one row asks for, and the row as float32 and rounded, for others. Nothing that is written, the products'
// outputs among it, overlaps `input` or `added`; of the pointers only `added` and `sum` may be null.
struct DecodeNorm {
  const float* input = nullptr;  // [columns]
  const float* added = nullptr;  // [columns], or null
  float* sum = nullptr;          // [columns], of both; where `added` is not null
  int64_t columns = 0;
  const Matrix* weight = nullptr;  // [1, columns]
  float offset = 0;
  float epsilon = 0;
  std::span<const MatmulCall> products;  // of the row: two at most, of one storage; only weights and outputs are read
  float* output = nullptr;               // [columns]
  std::byte* rounded = nullptr;          // RoundedRowBytes(columns)
  float* scale = nullptr;
};
// Whether a launch of products with `weights` can, which CanShareLaunch: what is needed is 16 bits of every plain weight, no more rows of
// `products` than the launch has blocks, whole pairs of tiles (V2), not too many columns, and room for the sums in shared memory.
bool CanNormInProduct(const DecodeNorm& norm, std::span<const DecodeMatrix> weights);

// Several of the same input in one launch: each CanShareLaunch with the first, all accumulate or none. Where `convolution` is
// given, every token is a sequence of its own, and the first call's outputs go through it before they are written.
inline constexpr size_t kMostDecodeProducts = 4;
bool CanShareLaunch(const DecodeMatrix& a, const DecodeMatrix& b);
void DecodeMatmul(const DecodeStream& stream, std::span<const DecodeMatmulCall> calls, const CausalConvCall* convolution);
// Of one token, whose input is what `norm` makes: the calls' own inputs, equal in all, and rounded rows are not read. CanNormInProduct.
void DecodeNormedMatmul(const DecodeStream& stream, const DecodeNorm& norm, std::span<const DecodeMatmulCall> calls,
                        const CausalConvCall* convolution);

// The first half of a layer of experts: for token t and its k-th expert e = experts[t][k]
//     output[t * top + k] = silu(gate_e x_t) * (up_e x_t)
// `weight` is [E * 2 * width, columns]; expert e's gate is its first `width` rows, then comes its up. Expert ids are read
// on the device and must be in [0, E). width is a multiple of kTileRows. A shared expert of the same width, with matrices for its
// gate and up, may come along: V2, and able to share a launch with `weight`. `top` may be 0 where it alone is wanted.
struct DecodeGateUpCall {
  DecodeMatrix weight;
  int64_t width = 0;
  const float* input = nullptr;  // [tokens, columns], as above
  int64_t input_stride = 0;
  RoundedRows rounded = {};
  int64_t tokens = 1;
  int64_t top = 0;                   // 0..kMaxDecodeTop, with the shared one
  const int32_t* experts = nullptr;  // [tokens, top]
  float* output = nullptr;           // [tokens * top, width]
  const DecodeMatrix* shared_gate = nullptr;  // both or neither
  const DecodeMatrix* shared_up = nullptr;
  float* shared_output = nullptr;  // [tokens, width]
};
void DecodeGateUp(const DecodeStream& stream, const DecodeGateUpCall& call);

// The second half: output[t] = sum over k of route_weights[t][k] * (down_e input[t * top + k]), e = experts[t][k]; added
// to what is there where `accumulate`. `weight` is [E * hidden, width]; hidden a multiple of kTileRows. A token's rounded
// inputs, 2 * top * width bytes, must fit into a block's shared memory beside the weights in flight: 48 KB always do. A shared
// expert may come along as above; its products count sigmoid(shared_gate[t]), or 1.
struct DecodeDownCall {
  DecodeMatrix weight;
  int64_t hidden = 0;
  const float* input = nullptr;  // [tokens * top, width], width a multiple of 4
  int64_t tokens = 1;
  int64_t top = 0;
  const int32_t* experts = nullptr;      // [tokens, top]
  const float* route_weights = nullptr;  // [tokens, top]
  const DecodeMatrix* shared = nullptr;
  const float* shared_input = nullptr;  // [tokens, width]
  const float* shared_gate = nullptr;   // [tokens]
  float* output = nullptr;              // [tokens, hidden]
  bool accumulate = false;
  // The kernel in front is DecodeGateUp with the same `experts`: it lets this one start only once it has them, so that this one's
  // weights need not wait for it.
  bool experts_known = false;
};
void DecodeDown(const DecodeStream& stream, const DecodeDownCall& call);

}  // namespace hproc::kernels
