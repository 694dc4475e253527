// How the tokens of one forward pass belong to sequences.
#pragma once

#include <cstdint>

namespace hproc::kernels {

// `tokens` consecutive rows of the pass, starting at row `first_row`, are positions [first_position, first_position +
// tokens) of the sequence in cache slot `slot`. Runs of one pass name different slots and cover its rows in order.
struct SequenceRun {
  int32_t slot = 0;
  int32_t first_position = 0;
  int32_t first_row = 0;
  int32_t tokens = 0;
};

}  // namespace hproc::kernels
