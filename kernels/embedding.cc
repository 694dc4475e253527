#include "kernels/embedding.h"

#include <cstring>

#include "base/check.h"
#include "kernels/device_backend.h"

namespace hproc::kernels {

void EmbedTokens(const Context& context, const EmbedCall& call) {
  if (context.device != nullptr) return context.device->EmbedTokens(call);
  for (int64_t r = 0; r < call.rows; ++r) {
    HPROC_CHECK(call.tokens[r] >= 0 && call.tokens[r] < call.weight->rows, "a token of the vocabulary");
    DecodeMatrixRow(*call.weight, call.tokens[r], call.output + r * call.weight->columns);
  }
}

void Upload(const Context& context, void* to, std::span<const std::byte> from) {
  if (context.device != nullptr) return context.device->Upload(to, from);
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}

void Download(const Context& context, std::span<std::byte> to, const void* from) {
  if (to.empty()) return;
  if (context.device != nullptr) return context.device->Download(to, from);
  std::memcpy(to.data(), from, to.size());
}

void Zero(const Context& context, void* data, int64_t bytes) {
  if (context.device != nullptr) return context.device->Zero(data, bytes);
  if (bytes > 0) std::memset(data, 0, static_cast<size_t>(bytes));
}

}  // namespace hproc::kernels
