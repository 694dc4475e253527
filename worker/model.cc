#include "worker/model.h"

#include "base/check.h"
#include "worker/sharding.h"

namespace hproc::worker {
namespace {

constexpr size_t kRoles = static_cast<size_t>(TensorRole::kSharedExpertGate) + 1;

}  // namespace

Model::Model(const ModelSpec& spec, const Shard& shard, std::vector<LoadedTensor> tensors)
    : spec_(ShardSpec(spec, shard)), shard_(shard), tensors_(std::move(tensors)) {
  index_.assign(spec_.layers.size() + 1, std::vector<int>(kRoles, -1));
  for (size_t i = 0; i < tensors_.size(); ++i) {
    index_[static_cast<size_t>(tensors_[i].layer + 1)][static_cast<size_t>(tensors_[i].role)] = static_cast<int>(i);
    has_packed_ = has_packed_ || IsPacked(tensors_[i].matrix.storage);
  }
  head_ = Get(spec_.tied_head ? TensorRole::kEmbedding : TensorRole::kHead, -1);
  if (!spec_.tied_head || shard.world_size == 1) return;
  HPROC_CHECK(!IsPacked(head_.storage), "an embedding is kept as stored");
  const Range part = VocabularyOf(spec, shard);
  const int64_t value_bytes = head_.storage == kernels::Storage::kFloat32 ? 4 : 2;
  head_.data = static_cast<const std::byte*>(head_.data) + part.first * head_.columns * value_bytes;
  head_.rows = part.count;
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

}  // namespace hproc::worker
