// Checkpoint: a folder of safetensors files as Hugging Face lays it out, opened for reading.
//
//   config.json                    required
//   generation_config.json         optional
//   model.safetensors              the weights in one file; where it is there, as in transformers,
//                                  the index is not looked at
//   model.safetensors.index.json   {"metadata": {"total_size": N}, "weight_map": {TENSOR: FILE}},
//                                  with the files it names
//
// The folder is hostile input (a download): Open checks every header (worker/safetensors.h) and
// that the index and the files say the same, tensor by tensor, before anything is read. Reading is
// by pread: a file cut short by someone else while it is open is an error here, where a mapping
// would be a SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "worker/safetensors.h"

namespace hproc::worker {

inline constexpr int64_t kMaxConfigBytes = int64_t{4} << 20;
inline constexpr int64_t kMaxIndexBytes = int64_t{128} << 20;
inline constexpr size_t kMaxShards = 4096;
inline constexpr int64_t kMaxShardBytes = int64_t{1} << 50;  // so that sums stay far from 2^63

// Where `name`, a plain file name, leads in `folder`; nothing is opened. Refused: an empty name,
// ".", "..", anything with a slash or a control character, what is missing or not a regular file,
// and a symbolic link that leaves the folder. One layout of links is let through, since most
// downloads have it: from the hub's cache, …/snapshots/REVISION/NAME to …/blobs/. The messages name
// the file.
Result<std::filesystem::path> ResolveInFolder(const std::filesystem::path& folder,
                                              std::string_view name);

// Movable. Immutable once open, so that all methods are safe from any thread at once; one
// descriptor a file.
class Checkpoint {
 public:
  // Errors name the file, and the tensor where there is one, in one line.
  static Result<Checkpoint> Open(const std::filesystem::path& folder);

  // Of the shape that config.json at `config` describes, without tensors: a model of synthetic weights (worker/synthetic.h).
  static Result<Checkpoint> OpenSynthetic(const std::filesystem::path& config);

  const std::filesystem::path& folder() const { return folder_; }
  bool is_synthetic() const { return is_synthetic_; }
  // The files' bytes as they are; not parsed here.
  const std::string& config_json() const { return config_json_; }
  const std::optional<std::string>& generation_config_json() const {
    return generation_config_json_;
  }

  // Of all files, sorted by name (bytewise). Stays where it is while the checkpoint is moved.
  std::span<const TensorInfo> tensors() const { return tensors_; }
  // nullptr where there is none.
  const TensorInfo* Find(std::string_view name) const;
  int64_t total_bytes() const { return total_bytes_; }  // of all tensors, without the headers

  int shard_count() const { return static_cast<int>(shards_.size()); }
  const std::string& ShardName(int shard) const { return shards_[static_cast<size_t>(shard)].name; }

  // out.size() bytes of the tensor from byte_offset on. `tensor` is one of tensors(), and the range
  // lies in it. Fails where the disk does, or where the file was cut short since it was opened.
  Result<void> Read(const TensorInfo& tensor, int64_t byte_offset, std::span<std::byte> out) const;

  // Identifies the checkpoint without reading all of it: the SHA-256, in hexadecimal, of
  //
  //   "hproc-checkpoint-1\n"
  //   size of config.json, its bytes
  //   number of files
  //   for each file, by name: size of its name, the name, size of the file, SHA-256 of its header
  //     (the JSON alone) in hexadecimal
  //   for each tensor, by name: its first min(4096, size) bytes; where it is longer, its last 4096
  //
  // with every number as 8 bytes, little endian. The headers hold names, types, shapes and offsets,
  // so two checkpoints of one fingerprint differ at most inside tensors longer than 8 KiB. Reads
  // two pages a tensor: some 0.1 s for a thousand tensors on a local disk.
  Result<std::string> Fingerprint() const;

 private:
  struct Shard {
    std::string name;
    UniqueFd fd;
    int64_t file_bytes = 0;
    int64_t data_begin = 0;  // where the data buffer starts in the file
    std::string header_sha256;
  };
  struct Index;

  Checkpoint() = default;
  static Result<Index> ReadIndex(const std::filesystem::path& folder);
  Result<void> OpenShard(const std::string& name, const std::filesystem::path& path);
  Result<void> OpenShards(const Index& index);
  Result<void> SortTensors();  // and sees to it that no name is there twice
  Result<void> CheckIndex(const Index& index) const;

  std::filesystem::path folder_;
  bool is_synthetic_ = false;
  std::string config_json_;
  std::optional<std::string> generation_config_json_;
  std::vector<Shard> shards_;  // by name
  std::vector<TensorInfo> tensors_;
  int64_t total_bytes_ = 0;
};

}  // namespace hproc::worker
