// Splits the rows of an element-wise operation over the pool where that pays.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/function_ref.h"
#include "kernels/context.h"

namespace hproc::kernels {

// Calls body(begin, end) for disjoint ranges that cover [0, rows). `row_cost` is about the row's time in float
// operations; ranges of less than some microseconds are not worth handing to another thread.
inline void ForRows(const Context& context, int64_t rows, int64_t row_cost,
                    FunctionRef<void(int64_t begin, int64_t end)> body) {
  constexpr int64_t kLeastCost = 20000;
  const int64_t total = rows * std::max<int64_t>(1, row_cost);
  const int64_t parts = std::min<int64_t>({rows, total / kLeastCost, 4 * context.pool->size()});
  if (parts <= 1 || context.pool->size() == 1) {
    if (rows > 0) body(0, rows);
    return;
  }
  context.pool->ParallelFor(parts, [&](int64_t i, int) { body(rows * i / parts, rows * (i + 1) / parts); });
}

}  // namespace hproc::kernels
