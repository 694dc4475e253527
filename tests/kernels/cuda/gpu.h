// The device of the tests that need one; without it they are skipped, and say why.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "kernels/cuda/device.h"

namespace hproc::kernels {

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string reason = "no devices";
    if (CudaDeviceCount(&reason) == 0) GTEST_SKIP() << "needs a CUDA device: " << reason;
    Device();
  }
  // Opened once, before anything else makes its context: that takes a second, and is measured.
  static const CudaDevice& Device() {
    static const CudaDevice device(0);
    return device;
  }
};

}  // namespace hproc::kernels
