#include "worker/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/printable.h"
#include "base/sha256.h"
#include "worker/json_events.h"

namespace hproc::worker {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";
constexpr int64_t kFingerprintBytes = 4096;

std::string SystemMessage(int code) { return std::generic_category().message(code); }

bool IsInside(const fs::path& folder, const fs::path& file) {
  const auto [end, unused] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  return end == folder.end();
}

// The hub's cache keeps each file once, under blobs/, and links to it from snapshots/REVISION/.
bool IsHubBlob(const fs::path& folder, const fs::path& file) {
  return folder.parent_path().filename() == "snapshots" &&
         IsInside(folder.parent_path().parent_path() / "blobs", file);
}

// Reads all of `out` at `offset`; the error says why not, without naming the file.
Result<void> ReadAt(int fd, int64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return Error{"cannot read at byte " + std::to_string(offset) + ": " + SystemMessage(errno)};
    }
    if (n == 0) {
      return Error{"ends at or before byte " + std::to_string(offset) + ", " +
                   std::to_string(out.size()) +
                   " bytes short of what is to be read: cut short since it was opened?"};
    }
    out = out.subspan(static_cast<size_t>(n));
    offset += n;
  }
  return Ok();
}

void UpdateNumber(Sha256& digest, int64_t number) {
  std::array<unsigned char, 8> bytes{};
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<unsigned char>(static_cast<uint64_t>(number) >> (8 * i));
  }
  digest.Update(bytes.data(), bytes.size());
}

}  // namespace

// What model.safetensors.index.json says.
struct Checkpoint::Index {
  std::vector<std::pair<std::string, std::string>> weight_map;  // tensor, file; by tensor
  std::optional<double> total_bytes;
};

namespace {

class IndexHandler final : public JsonHandler {
 public:
  Result<void> OnScalar(const JsonScalar& scalar) override {
    if (depth_ == 2 && top_key_ == "weight_map") {
      if (scalar.kind != JsonScalar::Kind::kString) return NotAFileName();
      if (weight_map.size() == kMaxTensorsPerFile) {
        return Error{"more than " + std::to_string(kMaxTensorsPerFile) + " tensors"};
      }
      weight_map.emplace_back(key_, std::move(*scalar.text));
    } else if (depth_ == 1 && top_key_ == "weight_map") {
      return Error{"weight_map is not an object"};
    } else if (depth_ == 2 && top_key_ == "metadata" && key_ == "total_size") {
      if (scalar.kind == JsonScalar::Kind::kUnsigned) {
        total_bytes = static_cast<double>(scalar.number);
      } else if (scalar.kind == JsonScalar::Kind::kOtherNumber) {
        total_bytes = scalar.other;  // some tools write it as 1.5e9
      } else {
        return Error{"total_size is not a number"};
      }
    }
    return depth_ == 0 ? Result<void>(Error{"not a JSON object"}) : Ok();
  }

  Result<void> OnKey(std::string& key) override {
    if (depth_ == 1) {
      if (key == "weight_map" && std::exchange(has_weight_map, true)) {
        return Error{"weight_map appears twice"};
      }
      top_key_ = std::move(key);
    } else if (depth_ == 2) {
      key_ = std::move(key);
    }
    return Ok();
  }

  Result<void> OnBegin(bool is_object) override {
    if (depth_ == 0 && !is_object) return Error{"not a JSON object"};
    if (depth_ == 1 && top_key_ == "weight_map" && !is_object) {
      return Error{"weight_map is not an object"};
    }
    if (depth_ == 2 && top_key_ == "weight_map") return NotAFileName();
    ++depth_;
    return Ok();
  }

  Result<void> OnEnd() override {
    --depth_;
    return Ok();
  }

  std::vector<std::pair<std::string, std::string>> weight_map;
  std::optional<double> total_bytes;
  bool has_weight_map = false;

 private:
  Error NotAFileName() const {
    return Error{"tensor '" + Printable(key_) + "': its file is not a string"};
  }

  int depth_ = 0;
  std::string top_key_;
  std::string key_;
};

}  // namespace

Result<fs::path> ResolveInFolder(const fs::path& folder, std::string_view name) {
  const std::string where = (folder / "").string() + Printable(name);
  const bool plain = !name.empty() && name != "." && name != ".." &&
                     std::none_of(name.begin(), name.end(), [](char c) {
                       return c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
                     });
  if (!plain) {
    return Error{folder.string() + ": '" + Printable(name) +
                 "' is not the name of a file in this folder"};
  }
  std::error_code failure;
  const fs::path real_folder = fs::canonical(folder, failure);
  if (failure) return Error{folder.string() + ": " + failure.message()};
  const fs::path file = fs::canonical(real_folder / fs::path(name), failure);
  if (failure) return Error{where + ": " + failure.message()};
  if (!IsInside(real_folder, file) && !IsHubBlob(real_folder, file)) {
    return Error{where + ": a symbolic link out of the folder"};
  }
  // Not left to open(): a pipe would block there.
  if (!fs::is_regular_file(file, failure)) return Error{where + ": not a regular file"};
  return file;
}

Result<Checkpoint::Index> Checkpoint::ReadIndex(const fs::path& folder) {
  const Result<fs::path> path = ResolveInFolder(folder, kIndexFile);
  if (!path.ok()) return path.error();
  const Result<std::string> text = ReadFile(*path, kMaxIndexBytes);
  if (!text.ok()) return text.error();
  const std::string prefix = (folder / kIndexFile).string() + ": ";
  IndexHandler handler;
  if (Result<void> read = ParseJson(*text, JsonLimits{}, handler); !read.ok()) {
    return Error{prefix + read.error().message};
  }
  if (!handler.has_weight_map) return Error{prefix + "no weight_map"};
  Index index{std::move(handler.weight_map), handler.total_bytes};
  std::sort(index.weight_map.begin(), index.weight_map.end());
  const auto twice =
      std::adjacent_find(index.weight_map.begin(), index.weight_map.end(),
                         [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != index.weight_map.end()) {
    return Error{prefix + "tensor '" + Printable(twice->first) + "' appears twice"};
  }
  return index;
}

Result<void> Checkpoint::OpenShard(const std::string& name, const fs::path& path) {
  const std::string label = (folder_ / "").string() + Printable(name);
  Shard shard;
  shard.name = name;
  // O_NONBLOCK: should the file have become a pipe since, open() returns and the check below
  // refuses it.
  shard.fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  if (!shard.fd) return Error{label + ": cannot open: " + SystemMessage(errno)};
  struct stat info {};
  if (::fstat(shard.fd.get(), &info) != 0) {
    return Error{label + ": cannot stat: " + SystemMessage(errno)};
  }
  if (!S_ISREG(info.st_mode)) return Error{label + ": not a regular file"};
  shard.file_bytes = info.st_size;
  if (shard.file_bytes > kMaxShardBytes) {
    return Error{label + ": " + std::to_string(shard.file_bytes) + " bytes, more than the " +
                 std::to_string(kMaxShardBytes) + " allowed"};
  }

  std::string first(static_cast<size_t>(std::min<int64_t>(8, shard.file_bytes)), '\0');
  Result<void> read = ReadAt(shard.fd.get(), 0, std::as_writable_bytes(std::span(first)));
  if (!read.ok()) return Error{label + ": " + read.error().message};
  const Result<int64_t> header_bytes = SafetensorsHeaderBytes(label, first, shard.file_bytes);
  if (!header_bytes.ok()) return header_bytes.error();
  std::string json(static_cast<size_t>(*header_bytes), '\0');
  read = ReadAt(shard.fd.get(), 8, std::as_writable_bytes(std::span(json)));
  if (!read.ok()) return Error{label + ": " + read.error().message};
  Result<SafetensorsHeader> header = ParseSafetensorsHeader(label, json, shard.file_bytes);
  if (!header.ok()) return header.error();

  shard.data_begin = 8 + *header_bytes;
  shard.header_sha256 = Sha256Hex(json);
  for (TensorInfo& tensor : header->tensors) {
    tensor.shard = static_cast<int>(shards_.size());
    total_bytes_ += tensor.bytes();
    tensors_.push_back(std::move(tensor));
  }
  shards_.push_back(std::move(shard));
  return Ok();
}

// Both lists are sorted by name, so one walk over them finds what is on one side only.
Result<void> Checkpoint::CheckIndex(const Index& index) const {
  const std::string prefix = (folder_ / kIndexFile).string() + ": ";
  auto listed = index.weight_map.begin();
  for (const TensorInfo& tensor : tensors_) {
    const std::string& file = ShardName(tensor.shard);
    if (listed == index.weight_map.end() || tensor.name < listed->first) {
      return Error{prefix + "tensor '" + Printable(tensor.name) + "' of " + Printable(file) +
                   " is not in the weight_map"};
    }
    if (listed->first == tensor.name && listed->second == file) {
      ++listed;
      continue;
    }
    if (listed->first == tensor.name) {
      return Error{prefix + "tensor '" + Printable(tensor.name) + "' should be in " +
                   Printable(listed->second) + ", but is in " + Printable(file)};
    }
    break;  // listed->first comes before this tensor: no file has it
  }
  if (listed != index.weight_map.end()) {
    return Error{prefix + "tensor '" + Printable(listed->first) + "' is not in " +
                 Printable(listed->second)};
  }
  if (index.total_bytes && *index.total_bytes != static_cast<double>(total_bytes_)) {
    char claimed[40];
    std::snprintf(claimed, sizeof claimed, "%.17g", *index.total_bytes);
    return Error{prefix + "total_size is " + claimed + ", but the tensors add up to " +
                 std::to_string(total_bytes_)};
  }
  return Ok();
}

// Opens every file that the index names.
Result<void> Checkpoint::OpenShards(const Index& index) {
  std::vector<std::string> files;
  for (const auto& [tensor, file] : index.weight_map) files.push_back(file);
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  if (files.size() > kMaxShards) {
    return Error{(folder_ / kIndexFile).string() + ": names " + std::to_string(files.size()) +
                 " files, more than the " + std::to_string(kMaxShards) + " allowed"};
  }
  for (const std::string& file : files) {
    const Result<fs::path> path = ResolveInFolder(folder_, file);
    if (!path.ok()) {
      return Error{path.error().message + " (named by " + std::string(kIndexFile) + ")"};
    }
    if (Result<void> opened = OpenShard(file, *path); !opened.ok()) return opened;
  }
  return Ok();
}

Result<void> Checkpoint::SortTensors() {
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.name, a.shard) < std::tie(b.name, b.shard);
  });
  const auto twice =
      std::adjacent_find(tensors_.begin(), tensors_.end(),
                         [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; });
  if (twice == tensors_.end()) return Ok();
  return Error{folder_.string() + ": tensor '" + Printable(twice->name) + "' is in both " +
               Printable(ShardName(twice->shard)) + " and " +
               Printable(ShardName(std::next(twice)->shard))};
}

Result<Checkpoint> Checkpoint::Open(const fs::path& folder) {
  std::error_code failure;
  if (!fs::is_directory(folder, failure)) {
    return Error{folder.string() +
                 (fs::exists(folder, failure) ? ": not a folder" : ": no such folder")};
  }
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;

  const auto has = [&](std::string_view name) {
    return fs::exists(fs::symlink_status(folder / name, failure));
  };
  const auto read = [&](std::string_view name) -> Result<std::string> {
    const Result<fs::path> path = ResolveInFolder(folder, name);
    return path.ok() ? ReadFile(*path, kMaxConfigBytes) : path.error();
  };
  if (!has("config.json")) return Error{folder.string() + ": no config.json, so not a checkpoint"};
  Result<std::string> config = read("config.json");
  if (!config.ok()) return config.error();
  checkpoint.config_json_ = std::move(*config);
  if (has("generation_config.json")) {
    Result<std::string> generation = read("generation_config.json");
    if (!generation.ok()) return generation.error();
    checkpoint.generation_config_json_ = std::move(*generation);
  }

  if (has(kSingleFile)) {
    const Result<fs::path> path = ResolveInFolder(folder, kSingleFile);
    if (!path.ok()) return path.error();
    Result<void> opened = checkpoint.OpenShard(std::string(kSingleFile), *path);
    if (opened.ok()) opened = checkpoint.SortTensors();
    if (!opened.ok()) return opened.error();
  } else if (has(kIndexFile)) {
    const Result<Index> index = ReadIndex(folder);
    if (!index.ok()) return index.error();
    Result<void> opened = checkpoint.OpenShards(*index);
    if (opened.ok()) opened = checkpoint.SortTensors();
    if (opened.ok()) opened = checkpoint.CheckIndex(*index);
    if (!opened.ok()) return opened.error();
  } else {
    return Error{folder.string() + ": neither " + std::string(kSingleFile) + " nor " +
                 std::string(kIndexFile)};
  }
  return checkpoint;
}

const TensorInfo* Checkpoint::Find(std::string_view name) const {
  const auto found = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const TensorInfo& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

Result<void> Checkpoint::Read(const TensorInfo& tensor, int64_t byte_offset,
                              std::span<std::byte> out) const {
  HPROC_CHECK(byte_offset >= 0 && byte_offset <= tensor.bytes() &&
                  static_cast<int64_t>(out.size()) <= tensor.bytes() - byte_offset,
              "read outside tensor " + Printable(tensor.name));
  const Shard& shard = shards_[static_cast<size_t>(tensor.shard)];
  const Result<void> read =
      ReadAt(shard.fd.get(), shard.data_begin + tensor.begin + byte_offset, out);
  if (read.ok()) return Ok();
  return Error{(folder_ / "").string() + Printable(shard.name) + ": tensor '" +
               Printable(tensor.name) + "': the file " + read.error().message};
}

Result<Checkpoint> Checkpoint::OpenSynthetic(const fs::path& config) {
  Result<std::string> bytes = ReadFile(config, kMaxConfigBytes);
  if (!bytes.ok()) return bytes.error();
  Checkpoint checkpoint;
  checkpoint.folder_ = config.parent_path();
  checkpoint.is_synthetic_ = true;
  checkpoint.config_json_ = std::move(*bytes);
  return checkpoint;
}

Result<std::string> Checkpoint::Fingerprint() const {
  Sha256 digest;
  digest.Update(is_synthetic_ ? "hproc-synthetic-1\n" : "hproc-checkpoint-1\n");
  UpdateNumber(digest, static_cast<int64_t>(config_json_.size()));
  digest.Update(config_json_);
  UpdateNumber(digest, shard_count());
  for (const Shard& shard : shards_) {
    UpdateNumber(digest, static_cast<int64_t>(shard.name.size()));
    digest.Update(shard.name);
    UpdateNumber(digest, shard.file_bytes);
    digest.Update(shard.header_sha256);
  }
  std::vector<std::byte> page(static_cast<size_t>(kFingerprintBytes));
  for (const TensorInfo& tensor : tensors_) {
    const int64_t first = std::min(kFingerprintBytes, tensor.bytes());
    const auto bytes = std::span(page).first(static_cast<size_t>(first));
    if (Result<void> read = Read(tensor, 0, bytes); !read.ok()) return read.error();
    digest.Update(bytes.data(), bytes.size());
    if (tensor.bytes() > kFingerprintBytes) {
      if (Result<void> read = Read(tensor, tensor.bytes() - kFingerprintBytes, page); !read.ok()) {
        return read.error();
      }
      digest.Update(page.data(), page.size());
    }
  }
  return digest.FinishHex();
}

}  // namespace hproc::worker
