#include "web/model_roots.h"

#include <algorithm>

#include "worker/synthetic_name.h"

namespace hproc::web {
namespace {

namespace fs = std::filesystem;

bool LiesIn(const fs::path& path, const fs::path& root) {
  const auto [in_root, in_path] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return in_root == root.end();
}

Error Outside() { return Error{"not in a folder that hproc serve was given with --root"}; }

}  // namespace

Result<ModelRoots> ModelRoots::Create(const std::vector<fs::path>& roots) {
  ModelRoots all;
  for (const fs::path& root : roots) {
    std::error_code code;
    const fs::path resolved = fs::canonical(root, code);
    if (code || !fs::is_directory(resolved, code)) return Error{root.string() + ": no such folder"};
    all.roots_.push_back(resolved);
  }
  return all;
}

Result<fs::path> ModelRoots::Resolve(std::string_view name) const {
  if (name.empty() || name.size() > 4096 || name.find('\0') != std::string_view::npos) return Outside();
  const fs::path path(name);
  for (const fs::path& root : roots_) {
    std::error_code code;
    const fs::path resolved = fs::canonical(path.is_absolute() ? path : root / path, code);
    if (!code && LiesIn(resolved, root)) return resolved;
  }
  return Outside();
}

Result<fs::path> ModelRoots::Folder(std::string_view name) const {
  Result<fs::path> path = Resolve(name);
  std::error_code code;
  if (path.ok() && !fs::is_directory(*path, code)) return Error{"not a folder"};
  return path;
}

Result<fs::path> ModelRoots::File(std::string_view name) const {
  Result<fs::path> path = Resolve(name);
  std::error_code code;
  if (path.ok() && !fs::is_regular_file(*path, code)) return Error{"not a file"};
  return path;
}

Result<std::string> ModelRoots::ModelName(std::string_view name) const {
  const bool synthetic = name.starts_with(worker::kSyntheticPrefix);
  const Result<fs::path> path = synthetic ? File(name.substr(worker::kSyntheticPrefix.size())) : Folder(name);
  if (!path.ok()) return path.error();
  return (synthetic ? std::string(worker::kSyntheticPrefix) : std::string()) + path->string();
}

std::vector<ModelRoots::Model> ModelRoots::Models() const {
  constexpr size_t kMaxEntries = 20'000;  // of folders that hold something else
  std::vector<Model> models;
  size_t looked_at = 0;
  std::vector<std::pair<fs::path, int>> open;
  for (const fs::path& root : roots_) open.emplace_back(root, 0);
  while (!open.empty() && models.size() < kMaxModels) {
    const auto [folder, depth] = open.back();
    open.pop_back();
    Model model{.path = folder.string(), .bytes = 0};
    bool has_config = false;
    std::error_code code;
    for (fs::directory_iterator entry(folder, fs::directory_options::skip_permission_denied, code), end;
         !code && entry != end && looked_at < kMaxEntries; entry.increment(code), ++looked_at) {
      std::error_code ignored;
      const fs::path& path = entry->path();
      // Links are not followed: they may lead out of the root, or round in circles.
      if (entry->symlink_status(ignored).type() == fs::file_type::directory) {
        if (depth < kMaxDepth && !path.filename().string().starts_with('.')) open.emplace_back(path, depth + 1);
      } else if (path.filename() == "config.json") {
        has_config = true;
      } else if (path.extension() == ".safetensors") {
        const uintmax_t bytes = fs::file_size(path, ignored);
        if (!ignored) model.bytes += static_cast<int64_t>(bytes);
      }
    }
    if (has_config) models.push_back(std::move(model));
  }
  std::ranges::sort(models, {}, &Model::path);
  const auto [first, last] = std::ranges::unique(models, {}, &Model::path);  // roots within roots
  models.erase(first, last);
  return models;
}

}  // namespace hproc::web
