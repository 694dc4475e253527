#include <vector>

#include "base/check.h"
#include "kernels/cuda/cut_container.h"
#include "kernels/cuda/handles.h"

namespace hproc::kernels {
namespace {

constexpr int kThreads = 256;

// One thread a byte of the part's codes.
__global__ void __launch_bounds__(kThreads)
    CutCodesKernel(const uint8_t* whole, int64_t whole_row_bytes, quant::PlaneLayout planes, int64_t first, int64_t columns,
                   int64_t row_bytes, int64_t bytes, uint8_t* part) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= bytes) return;
  const int64_t row = at / row_bytes;
  const int unit_bytes = planes.unit_bytes();
  const int64_t unit = at % row_bytes / unit_bytes;
  int byte = static_cast<int>(at % row_bytes % unit_bytes);
  const uint8_t* codes = whole + row * whole_row_bytes;
  const auto code_of = [&](int c) -> unsigned {  // of column c of the unit; padding is 0
    const int64_t column = unit * quant::kUnitColumns + c;
    return column < columns ? quant::CodeAt(codes, planes, first + column) : 0u;
  };
  int shift = 0;
  for (int bits = 4; bits > 0; bits /= 2) {
    if ((planes.low_bits & bits) == 0) continue;
    const int plane_bytes = quant::kUnitColumns * bits / 8;
    if (byte < plane_bytes) {
      unsigned packed = 0;
      for (int k = 0; k < 8 / bits; ++k) {
        packed |= ((code_of(byte + k * plane_bytes) >> shift) & ((1u << bits) - 1)) << (bits * k);
      }
      part[at] = static_cast<uint8_t>(packed);
      return;
    }
    byte -= plane_bytes;
    shift += bits;
  }
  int value = 0;  // five digits, as quant::EncodeTernary
  for (int digit = 0; digit < 5; ++digit) {
    const int c = byte + digit * quant::kTernaryUnitBytes;
    value = value * 3 + (c < quant::kUnitColumns ? static_cast<int>(code_of(c) >> planes.low_bits) : 0);
  }
  part[at] = static_cast<uint8_t>((value * 256 + 242) / 243);
}

// Outliers are a hundredth of the weights: they are taken apart on the host.
struct HostOutliers {
  std::vector<uint32_t> starts;
  std::vector<uint8_t> counts;
  std::vector<uint8_t> columns;
  std::vector<uint16_t> values;
  int64_t count = 0;
};

template <typename T>
void Append(std::vector<uint8_t>& bytes, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
}
uint32_t Read(const std::vector<uint8_t>& bytes, int64_t index, int size) {
  uint32_t value = 0;
  for (int i = size; i-- > 0;) value = value << 8 | bytes[static_cast<size_t>(index * size + i)];
  return value;
}

template <typename T>
std::vector<T> Fetch(const void* from, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  HPROC_CUDA_CHECK(cudaMemcpy(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost));
  return values;
}

HostOutliers OutliersOf(const quant::XfpMatrix& whole, int64_t outliers, const quant::ColumnCut& cut, int64_t columns) {
  HostOutliers part;
  if (outliers == 0) return part;
  const int count_bytes = whole.count_bytes();
  const int whole_column_bytes = quant::OutlierColumnBytes(whole.columns);
  const auto counts = Fetch<uint8_t>(whole.outlier_counts, whole.rows * count_bytes);
  const auto from = Fetch<uint8_t>(whole.outlier_columns, outliers * whole_column_bytes);
  const auto values = Fetch<uint16_t>(whole.outlier_values, outliers);
  int64_t at = 0;
  for (int64_t row = 0; row < whole.rows; ++row) {
    if (row % quant::kOutlierRowBlock == 0) part.starts.push_back(static_cast<uint32_t>(part.count));
    uint32_t kept = 0;
    for (const int64_t end = at + Read(counts, row, count_bytes); at < end; ++at) {
      const int64_t column = int64_t{Read(from, at, whole_column_bytes)} - cut.first;
      if (column < 0 || column >= columns) continue;
      quant::OutlierColumnBytes(columns) == 2 ? Append(part.columns, static_cast<uint16_t>(column))
                                              : Append(part.columns, static_cast<uint32_t>(column));
      part.values.push_back(values[static_cast<size_t>(at)]);
      ++kept;
    }
    count_bytes == 1 ? part.counts.push_back(static_cast<uint8_t>(kept)) : Append(part.counts, static_cast<uint16_t>(kept));
    part.count += kept;
  }
  HPROC_CHECK(at == outliers, "outliers of a container");
  return part;
}

}  // namespace

quant::XfpMatrix CutContainer(const quant::XfpMatrix& whole, int64_t outliers, const quant::ColumnCut& cut, int64_t columns,
                              const CudaDevice& device, DeviceMemory& memory, MemoryUse use, std::string_view purpose,
                              DeviceBuffer& storage) {
  const ScopedDevice current(device.ordinal());
  const HostOutliers kept = OutliersOf(whole, outliers, cut, columns);
  const quant::XfpLayout layout = quant::LayoutOf(whole.rows, columns, whole.format, kept.count, cut);
  storage = memory.Allocate(layout.total_bytes, use, purpose);
  std::byte* out = storage.data();
  const Stream stream;
  HPROC_CUDA_CHECK(cudaMemsetAsync(out, 0, static_cast<size_t>(storage.bytes()), stream.get()));
  const auto copy = [&](int64_t to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
    HPROC_CUDA_CHECK(cudaMemcpyAsync(out + to, from, static_cast<size_t>(bytes), kind, stream.get()));
  };
  const int levels = whole.format.levels;
  const int64_t row_bytes = quant::CodeBytesPerRow(columns, levels);
  const int64_t whole_row_bytes = quant::CodeBytesPerRow(whole.columns, levels);
  const int64_t bytes = whole.rows * row_bytes;
  if (columns == whole.columns) {
    copy(layout.codes, whole.codes, bytes, cudaMemcpyDeviceToDevice);
  } else {
    CutCodesKernel<<<static_cast<unsigned>((bytes + kThreads - 1) / kThreads), kThreads, 0, stream.get()>>>(
        whole.codes, whole_row_bytes, quant::PlanesOf(levels), cut.first, columns, row_bytes, bytes,
        reinterpret_cast<uint8_t*>(out) + layout.codes);
    HPROC_CUDA_LAUNCHED("CutCodesKernel");
  }
  const bool library = whole.format.mode == quant::Mode::kV2a;
  const int64_t books = library ? quant::kLibrarySize : whole.rows;
  copy(layout.codebooks, whole.codebooks, books * levels * whole.format.centroid_bytes(), cudaMemcpyDeviceToDevice);
  const int64_t groups = quant::GroupsPerRow(cut.group_offset() + columns);
  const auto copy_groups = [&](int64_t to, const void* from, int64_t size) {  // those of the part, row by row
    const auto* first = static_cast<const std::byte*>(from) + cut.first / quant::kGroupColumns * size;
    HPROC_CUDA_CHECK(cudaMemcpy2DAsync(out + to, static_cast<size_t>(groups * size), first,
                                       static_cast<size_t>(whole.groups() * size), static_cast<size_t>(groups * size),
                                       static_cast<size_t>(whole.rows), cudaMemcpyDeviceToDevice, stream.get()));
  };
  if (library) copy_groups(layout.indices, whole.indices, 1);
  if (whole.format.group_scales) {
    copy_groups(layout.scales, whole.scales, 2);
  } else {
    copy(layout.scales, whole.scales, whole.rows * 2, cudaMemcpyDeviceToDevice);
  }
  if (kept.count > 0) {
    copy(layout.outlier_starts, kept.starts.data(), static_cast<int64_t>(kept.starts.size()) * 4, cudaMemcpyHostToDevice);
    copy(layout.outlier_counts, kept.counts.data(), static_cast<int64_t>(kept.counts.size()), cudaMemcpyHostToDevice);
    copy(layout.outlier_columns, kept.columns.data(), static_cast<int64_t>(kept.columns.size()), cudaMemcpyHostToDevice);
    copy(layout.outlier_values, kept.values.data(), kept.count * 2, cudaMemcpyHostToDevice);
  }
  stream.Wait();
  return quant::ViewOf(whole.rows, columns, whole.format, kept.count,
                       storage.span().first(static_cast<size_t>(layout.total_bytes)), cut);
}

}  // namespace hproc::kernels
