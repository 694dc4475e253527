#include "worker/golden.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "base/file.h"
#include "base/printable.h"
#include "worker/engine.h"
#include "worker/loader.h"
#include "worker/sharding.h"

namespace hproc::worker {
namespace {

constexpr int64_t kMaxGoldenBytes = int64_t{4} << 30;
constexpr int kPassTokens = 32;

class GoldenFile {
 public:
  static Result<GoldenFile> Open(const std::filesystem::path& path) {
    GoldenFile file;
    file.label_ = path.string();
    Result<std::string> bytes = ReadFile(path, kMaxGoldenBytes);
    if (!bytes.ok()) return bytes.error();
    file.bytes_ = std::move(*bytes);
    const auto size = static_cast<int64_t>(file.bytes_.size());
    Result<int64_t> header_bytes = SafetensorsHeaderBytes(file.label_, file.bytes_, size);
    if (!header_bytes.ok()) return header_bytes.error();
    Result<SafetensorsHeader> header =
        ParseSafetensorsHeader(file.label_, std::string_view(file.bytes_).substr(8, static_cast<size_t>(*header_bytes)), size);
    if (!header.ok()) return header.error();
    file.tensors_ = std::move(header->tensors);
    file.data_ = 8 + static_cast<size_t>(*header_bytes);
    return file;
  }

  bool Has(std::string_view name) const { return Find(name) != nullptr; }

  // All elements of a tensor of `dtype`.
  template <typename T>
  Result<std::vector<T>> Get(std::string_view name, Dtype dtype) const {
    const TensorInfo* info = Find(name);
    if (info == nullptr) return Error{label_ + ": tensor '" + std::string(name) + "' is missing"};
    if (info->dtype != dtype) {
      return Error{label_ + ": tensor '" + std::string(name) + "' is " + std::string(DtypeName(info->dtype)) + ", not " +
                   std::string(DtypeName(dtype))};
    }
    std::vector<T> values(static_cast<size_t>(info->elements()));
    std::memcpy(values.data(), bytes_.data() + data_ + info->begin, values.size() * sizeof(T));
    return values;
  }
  const std::string& label() const { return label_; }

 private:
  const TensorInfo* Find(std::string_view name) const {
    const auto it = std::ranges::find(tensors_, name, &TensorInfo::name);
    return it == tensors_.end() ? nullptr : &*it;
  }

  std::string label_;
  std::string bytes_;
  size_t data_ = 0;
  std::vector<TensorInfo> tensors_;
};

Result<void> CheckTokens(const GoldenFile& file, std::span<const int32_t> ids, int64_t vocabulary) {
  for (int32_t id : ids) {
    if (id < 0 || id >= vocabulary) return Error{file.label() + ": token " + std::to_string(id) + " is not in the vocabulary"};
  }
  return Ok();
}

}  // namespace

Result<GoldenResult> RunGolden(const std::filesystem::path& model_dir, const std::filesystem::path& golden,
                               Runtime& runtime, const Rank& rank) {
  Result<Checkpoint> checkpoint = Checkpoint::Open(model_dir);
  if (!checkpoint.ok()) return checkpoint.error();
  Result<ModelSpec> spec = ParseModelSpec(checkpoint->config_json(), checkpoint->generation_config_json());
  if (!spec.ok()) return spec.error();
  Result<TensorTable> table = BuildTensorTable(*spec, *checkpoint);
  if (!table.ok()) return table.error();
  Result<GoldenFile> file = GoldenFile::Open(golden);
  if (!file.ok()) return file.error();
  Result<std::vector<int32_t>> prompt = file->Get<int32_t>("prompt_ids", Dtype::kI32);
  if (!prompt.ok()) return prompt.error();
  Result<std::vector<float>> truth = file->Get<float>("prompt_logits", Dtype::kF32);
  if (!truth.ok()) return truth.error();
  const auto vocabulary = static_cast<size_t>(spec->vocabulary);
  if (prompt->empty() || truth->size() != prompt->size() * vocabulary) {
    return Error{file->label() + ": prompt_logits is not [tokens of prompt_ids, " + std::to_string(vocabulary) + "]"};
  }
  std::vector<int32_t> greedy_prompt;
  std::vector<int32_t> greedy;
  if (file->Has("greedy_ids")) {
    Result<std::vector<int32_t>> ids = file->Get<int32_t>("greedy_prompt_ids", Dtype::kI32);
    if (!ids.ok()) return ids.error();
    greedy_prompt = std::move(*ids);
    ids = file->Get<int32_t>("greedy_ids", Dtype::kI32);
    if (!ids.ok()) return ids.error();
    greedy = std::move(*ids);
    if (greedy_prompt.empty()) return Error{file->label() + ": greedy_prompt_ids is empty"};
  }
  for (const auto* ids : {&*prompt, &greedy_prompt, &greedy}) {
    if (Result<void> known = CheckTokens(*file, *ids, spec->vocabulary); !known.ok()) return known.error();
  }

  if (Result<void> able = runtime.CheckModel(*spec, rank.shard.world_size); !able.ok()) return able.error();
  if (Result<void> divides = CheckSharding(*spec, rank.shard.world_size); !divides.ok()) return divides.error();
  const ModelSpec part = ShardSpec(*spec, rank.shard);
  runtime.JoinRanks(rank.ranks);
  Result<LoadedModel> loaded = LoadRank(runtime, *spec, *checkpoint, *table, KeepEverything(*table), rank, {});
  if (!loaded.ok()) return loaded.error();
  EngineShape shape;
  shape.context = static_cast<int>(std::max(prompt->size(), greedy_prompt.size() + greedy.size()));
  shape.pass_tokens = kPassTokens;
  shape.logit_rows = kPassTokens;
  shape.kv_storage = kernels::Storage::kFloat32;
  shape.shard = rank.shard;
  shape.workspace = runtime.WorkspaceOf(part, shape);
  Engine engine(loaded->model, runtime.context(), runtime.memory(), shape, rank.ranks);
  engine.AllocateCache();
  engine.AllocateActivations();
  if (!rank.leads()) {
    engine.Follow();
    return GoldenResult{};
  }

  // Feeds `ids` from `position` on and hands over each piece's logits.
  const auto feed = [&](std::span<const int32_t> ids, int position, auto&& use) {
    for (size_t from = 0; from < ids.size(); from += kPassTokens) {
      const std::span<const int32_t> piece = ids.subspan(from, std::min<size_t>(kPassTokens, ids.size() - from));
      const kernels::SequenceRun run{.slot = 0, .first_position = position + static_cast<int32_t>(from), .first_row = 0,
                                     .tokens = static_cast<int32_t>(piece.size())};
      std::vector<int32_t> rows(piece.size());
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
      use(from, std::span(engine.Pass(piece, {&run, 1}, rows), piece.size() * vocabulary));
    }
  };

  GoldenResult result;
  double difference = 0;
  double norm = 0;
  feed(*prompt, 0, [&](size_t from, std::span<const float> logits) {
    for (size_t i = 0; i < logits.size(); ++i) {
      const double expected = (*truth)[from * vocabulary + i];
      difference += (logits[i] - expected) * (logits[i] - expected);
      norm += expected * expected;
    }
  });
  result.logits_rel_err = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);

  engine.ResetSlot(0);
  result.greedy_total = static_cast<int>(greedy.size());
  int32_t best = -1;
  const auto keep_best = [&](size_t, std::span<const float> logits) {
    const std::span<const float> last = logits.last(vocabulary);
    best = static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin());
  };
  if (!greedy.empty()) feed(greedy_prompt, 0, keep_best);
  for (size_t i = 0; i < greedy.size(); ++i) {
    result.greedy_match += best == greedy[i] ? 1 : 0;
    if (i + 1 < greedy.size()) feed({&greedy[i], 1}, static_cast<int>(greedy_prompt.size() + i), keep_best);
  }
  engine.Release();
  return result;
}

}  // namespace hproc::worker
