#include "worker/model.h"

#include "base/check.h"

namespace hproc::worker {
namespace {

constexpr size_t kRoles = static_cast<size_t>(TensorRole::kSharedExpertGate) + 1;

}  // namespace

Model::Model(ModelSpec spec, std::vector<LoadedTensor> tensors) : spec_(std::move(spec)), tensors_(std::move(tensors)) {
  index_.assign(spec_.layers.size() + 1, std::vector<int>(kRoles, -1));
  for (size_t i = 0; i < tensors_.size(); ++i) {
    index_[static_cast<size_t>(tensors_[i].layer + 1)][static_cast<size_t>(tensors_[i].role)] = static_cast<int>(i);
    has_packed_ = has_packed_ || IsPacked(tensors_[i].matrix.storage);
  }
}

const kernels::Matrix* Model::Find(TensorRole role, int layer) const {
  const int at = index_[static_cast<size_t>(layer + 1)][static_cast<size_t>(role)];
  return at < 0 ? nullptr : &tensors_[static_cast<size_t>(at)].matrix;
}

const kernels::Matrix& Model::Get(TensorRole role, int layer) const {
  const kernels::Matrix* matrix = Find(role, layer);
  HPROC_CHECK(matrix != nullptr, "a tensor of the table");
  return *matrix;
}

const kernels::Matrix& Model::Head() const {
  return Get(spec_.tied_head ? TensorRole::kEmbedding : TensorRole::kHead, -1);
}

}  // namespace hproc::worker
