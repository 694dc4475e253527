// Decode order as the device arranges it: the host's, to the bit.
#include "kernels/cuda/arrange.h"

#include <gtest/gtest.h>

#include "tests/kernels/cuda/gpu.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/random_container.h"

namespace hproc::kernels {
namespace {

using ArrangeForDecodeTest = GpuTest;

TEST_F(ArrangeForDecodeTest, WritesTheHostsBytesAtEveryLevelCountAndTail) {
  for (const quant::Mode mode : {quant::Mode::kV2, quant::Mode::kV2a}) {
    for (const int levels : quant::kLevelCounts) {
      for (const auto& [rows, columns, outliers] :
           {std::tuple{1, 64, 0}, {8, 128, 2}, {21, 300, 3}, {200, 129, 1}, {70, 5000, 300}, {9, 70000, 2}}) {
        SCOPED_TRACE(testing::Message() << quant::ModeName(mode) << " K " << levels << " [" << rows << ", " << columns << "]");
        const RandomContainer container(rows, columns, {.mode = mode, .levels = levels}, outliers, 11);
        const quant::XfpMatrix& on_host = container.view;
        const auto size =
            static_cast<size_t>(quant::LayoutOf(rows, columns, on_host.format, on_host.outliers).total_bytes);
        const auto* first = reinterpret_cast<const std::byte*>(on_host.codes);
        const DeviceArray<std::byte> bytes(std::vector<std::byte>(first, first + size));
        std::vector<std::byte> expected(
            static_cast<size_t>(DecodeOrderOf(rows, columns, on_host.format, on_host.outliers).total_bytes));
        WriteDecodeOrder(on_host, expected);
        const DeviceArray<std::byte> arranged(std::vector<std::byte>(expected.size(), std::byte{0xAA}));
        const DecodeMatrix matrix =
            ArrangeForDecode(quant::ViewOf(rows, columns, on_host.format, on_host.outliers, {bytes.get(), size}), Device(),
                             {arranged.get(), expected.size()});
        EXPECT_EQ(matrix.bytes, arranged.get());
        EXPECT_TRUE(arranged.ToHost() == expected);
      }
    }
  }
}

}  // namespace
}  // namespace hproc::kernels
