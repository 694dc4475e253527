// Embeddings, and the way of host values into a pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace hproc::kernels {

// output[r] = row tokens[r] of `weight` as float32. Tokens are in [0, weight.rows).
struct EmbedCall {
  const Matrix* weight = nullptr;   // [vocabulary, columns]; plain storage on a device
  const int32_t* tokens = nullptr;  // [rows]
  int64_t rows = 0;
  float* output = nullptr;  // [rows, columns]
};
void EmbedTokens(const Context& context, const EmbedCall& call);

// To where the backend's operations read; `from` may be written again on return.
void Upload(const Context& context, void* to, std::span<const std::byte> from);
// Waits for all that was enqueued.
void Download(const Context& context, std::span<std::byte> to, const void* from);
void Zero(const Context& context, void* data, int64_t bytes);

}  // namespace hproc::kernels
