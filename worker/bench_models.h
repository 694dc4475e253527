// Models for the benches: one set of weights packed, and the same weights in float32.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device_memory.h"
#include "quant/xfp_matrix.h"
#include "worker/model.h"
#include "worker/tensor_table.h"

namespace hproc::worker {

// How the families of a packed model are stored; kept tensors are bfloat16.
struct Packing {
  struct Choice {
    quant::XfpFormat format;
    double floor = 0.5;  // outliers bring every channel to it
  };
  Choice lazy;
  Choice others;
};

// Four levels for the routed experts, eight elsewhere, at floors that take an outlier in some hundred weights.
Packing FourAndEightLevels();

// Whole rows of a tensor. Fewer than the tensor has are repeated: random weights of a large model need not be drawn and
// fitted one by one to be as many bytes.
using RowSource = std::function<std::vector<float>(const ModelTensor&)>;

struct ModelPair {
  ModelSpec spec;
  std::unique_ptr<Model> packed;
  std::unique_ptr<Model> floats;
  int64_t packed_bytes = 0;
  double bits_per_weight = 0;
  double outlier_share = 0;
};

// Aborts where something is wrong with the source: benches have no one to tell. `memory` outlives the pair.
ModelPair MakeModels(const ModelSpec& spec, const TensorTable& table, const RowSource& rows, const Packing& packing,
                     kernels::DeviceMemory& memory);
ModelPair ModelsOfCheckpoint(const std::filesystem::path& folder, const Packing& packing, kernels::DeviceMemory& memory);
ModelPair RandomModels(std::string_view config_json, const Packing& packing, kernels::DeviceMemory& memory);

}  // namespace hproc::worker
