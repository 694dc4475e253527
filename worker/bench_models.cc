#include "worker/bench_models.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "quant/half.h"
#include "quant/matrix_quantizer.h"
#include "tests/quant/random_rows.h"

namespace hproc::worker {
namespace {

using kernels::DeviceMemory;
using kernels::MemoryUse;
using kernels::Storage;

template <typename T>
T OrAbort(Result<T> result) {
  if (!result.ok()) {
    std::cerr << "bench: " << result.error().message << '\n';
    std::abort();
  }
  return std::move(*result);
}

// Calls store(first_row, row within the pattern, rows) until all rows of the tensor are covered.
template <typename Store>
void Repeat(int64_t rows, int64_t pattern_rows, Store&& store) {
  for (int64_t first = 0; first < rows; first += pattern_rows) store(first, std::min(pattern_rows, rows - first));
}

LoadedTensor StorePlain(const ModelTensor& tensor, const std::vector<float>& pattern, Storage storage, DeviceMemory& memory) {
  LoadedTensor stored;
  const int64_t columns = tensor.spec.columns;
  const int64_t value_bytes = storage == Storage::kFloat32 ? 4 : 2;
  stored.role = tensor.role;
  stored.layer = tensor.layer;
  stored.storage = memory.Allocate(tensor.spec.weights() * value_bytes + 64, MemoryUse::kWeightsKept, tensor.spec.name);
  Repeat(tensor.spec.rows, static_cast<int64_t>(pattern.size()) / columns, [&](int64_t first, int64_t rows) {
    if (storage == Storage::kFloat32) {
      std::copy_n(pattern.begin(), rows * columns, stored.storage.as<float>() + first * columns);
    } else {
      std::transform(pattern.begin(), pattern.begin() + rows * columns, stored.storage.as<uint16_t>() + first * columns,
                     quant::FloatToBfloat16);
    }
  });
  stored.matrix = {.storage = storage, .rows = tensor.spec.rows, .columns = columns, .data = stored.storage.data()};
  return stored;
}

LoadedTensor StorePacked(const ModelTensor& tensor, const std::vector<float>& pattern, const Packing::Choice& choice,
                         DeviceMemory& memory, int64_t& outliers) {
  const int64_t columns = tensor.spec.columns;
  const int64_t pattern_rows = static_cast<int64_t>(pattern.size()) / columns;
  quant::TensorPlan plan;
  plan.spec = tensor.spec;
  plan.format = choice.format;
  plan.ladder_index = quant::LadderIndex(choice.floor);
  std::vector<float> sample;
  for (int64_t row : quant::LibrarySampleRows(pattern_rows, columns)) {
    sample.insert(sample.end(), pattern.begin() + row * columns, pattern.begin() + (row + 1) * columns);
  }
  // The blocks first, which say how many outliers there are; then the container.
  const quant::MatrixQuantizer encoder(plan, sample);
  std::vector<quant::MatrixQuantizer::Block> blocks;
  Repeat(tensor.spec.rows, pattern_rows, [&](int64_t first, int64_t rows) {
    if (first == 0 || rows < pattern_rows) encoder.Encode(std::span(pattern).first(static_cast<size_t>(rows * columns)), blocks.emplace_back());
    plan.outliers += static_cast<int64_t>(blocks.back().outlier_columns.size());
  });
  quant::MatrixQuantizer quantizer(plan, sample);
  LoadedTensor stored;
  stored.role = tensor.role;
  stored.layer = tensor.layer;
  stored.storage = memory.Allocate(quantizer.container_bytes(), MemoryUse::kWeightsLazy, tensor.spec.name);
  const std::span<std::byte> container = stored.storage.span().first(static_cast<size_t>(quantizer.container_bytes()));
  Repeat(tensor.spec.rows, pattern_rows, [&](int64_t first, int64_t rows) {
    const Result<void> done = quantizer.Store(first, rows < pattern_rows ? blocks.back() : blocks.front(), container);
    HPROC_CHECK(done.ok(), "a container of its own plan");
  });
  HPROC_CHECK(quantizer.Finish(container).ok(), "a whole container");
  stored.matrix = {.storage = Storage::kXfp, .rows = tensor.spec.rows, .columns = columns,
                   .xfp = quant::ViewOf(tensor.spec.rows, columns, *plan.format, plan.outliers, container)};
  outliers += plan.outliers;
  return stored;
}

}  // namespace

Packing FourAndEightLevels() {
  return {.lazy = {.format = {.mode = quant::Mode::kV2, .levels = 4}, .floor = 0.95},
          .others = {.format = {.mode = quant::Mode::kV2, .levels = 8}, .floor = 0.985}};
}

ModelPair MakeModels(const ModelSpec& spec, const TensorTable& table, const RowSource& rows, const Packing& packing,
                     DeviceMemory& memory) {
  std::vector<LoadedTensor> packed;
  std::vector<LoadedTensor> floats;
  ModelPair pair;
  pair.spec = spec;
  int64_t outliers = 0;
  int64_t quantized_weights = 0;
  int64_t weights = 0;
  for (const ModelTensor& tensor : table.tensors) {
    const std::vector<float> pattern = rows(tensor);
    floats.push_back(StorePlain(tensor, pattern, Storage::kFloat32, memory));
    weights += tensor.spec.weights();
    if (tensor.spec.family == quant::Family::kKept) {
      packed.push_back(StorePlain(tensor, pattern, Storage::kBfloat16, memory));
    } else {
      const Packing::Choice& choice = tensor.spec.family == quant::Family::kLazy ? packing.lazy : packing.others;
      packed.push_back(StorePacked(tensor, pattern, choice, memory, outliers));
      quantized_weights += tensor.spec.weights();
    }
    pair.packed_bytes += packed.back().storage.bytes();
  }
  pair.bits_per_weight = 8 * static_cast<double>(pair.packed_bytes) / static_cast<double>(weights);
  pair.outlier_share = static_cast<double>(outliers) / static_cast<double>(quantized_weights);
  pair.packed = std::make_unique<Model>(spec, Shard{}, std::move(packed));
  pair.floats = std::make_unique<Model>(spec, Shard{}, std::move(floats));
  return pair;
}

ModelPair ModelsOfCheckpoint(const std::filesystem::path& folder, const Packing& packing, DeviceMemory& memory) {
  const Checkpoint checkpoint = OrAbort(Checkpoint::Open(folder));
  const ModelSpec spec = OrAbort(ParseModelSpec(checkpoint.config_json(), checkpoint.generation_config_json()));
  const TensorTable table = OrAbort(BuildTensorTable(spec, checkpoint));
  const RowSource rows = [&](const ModelTensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.spec.weights()));
    HPROC_CHECK(ReadRows(checkpoint, tensor, 0, tensor.spec.rows, values).ok(), "a readable checkpoint");
    return values;
  };
  return MakeModels(spec, table, rows, packing, memory);
}

ModelPair RandomModels(std::string_view config_json, const Packing& packing, DeviceMemory& memory) {
  const ModelSpec spec = OrAbort(ParseModelSpec(config_json, std::nullopt));
  constexpr int64_t kPatternRows = 128;
  uint32_t seed = 1;
  const RowSource rows = [&](const ModelTensor& tensor) {
    return quant::RandomRows(std::min(kPatternRows, tensor.spec.rows), tensor.spec.columns, seed++, 0.002);
  };
  return MakeModels(spec, TensorTableOf(spec), rows, packing, memory);
}

}  // namespace hproc::worker
