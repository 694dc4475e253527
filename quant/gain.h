// The length at which a channel is given back.
//
// Codebooks and scales fitted by least squares give a channel w back too short: w' leaves out of w what it could not
// describe, and <w, w'> is cosine * norm_ratio * ||w||^2. A product with w' comes out too small by that factor, and in
// every channel and layer the same way, while the rest of the error has no direction in common. The cosine does not see
// a channel's length, so a floor leaves it free: scales are multiplied by the gain below, after which the error is
// orthogonal to the channel (the unbiased scale of EDEN, Vargaftik et al. 2022). Scales of groups stay as fitted: each
// would be rounded anew in its own way, and that the cosine does see.
#pragma once

#include <cstdint>

#include "base/host_device.h"
#include "quant/half.h"

namespace hproc::quant {

// `cosine` of w and w', and norm_ratio ||w'|| / ||w||. 1 where w' has nothing of w.
HPROC_HOST_DEVICE inline double LengthGain(double cosine, double norm_ratio) {
  const double kept = cosine * norm_ratio;
  return kept > 0 ? 1 / kept : 1.0;
}

// A stored scale (bfloat16) under a gain.
HPROC_HOST_DEVICE inline uint16_t GainedScale(uint16_t scale, double gain) {
  return FloatToBfloat16(static_cast<float>(static_cast<double>(Bfloat16ToFloat(scale)) * gain));
}

}  // namespace hproc::quant
