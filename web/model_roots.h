// ModelRoots: the folders from which the browser may name checkpoints and question files, and no others.
//
// What it names is resolved, symbolic links and all, and must lie in one of them. Immutable; thread-safe.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hproc::web {

class ModelRoots {
 public:
  // The error names a root that is no folder.
  static Result<ModelRoots> Create(const std::vector<std::filesystem::path>& roots);

  // The resolved path. Absolute, or relative to one of the roots. The error does not tell what lies outside.
  Result<std::filesystem::path> Folder(std::string_view name) const;
  Result<std::filesystem::path> File(std::string_view name) const;

  // What --model takes: a Folder, or synthetic:CONFIG.json (worker/synthetic_name.h), its File resolved.
  Result<std::string> ModelName(std::string_view name) const;

  struct Model {
    std::string path;   // resolved
    int64_t bytes = 0;  // of its safetensors files
  };
  // Folders with a config.json, by path; one without weights is fit for a synthetic model alone. At most kMaxModels of them,
  // and not deeper than kMaxDepth below a root.
  std::vector<Model> Models() const;
  static constexpr size_t kMaxModels = 200;
  static constexpr int kMaxDepth = 4;

  const std::vector<std::filesystem::path>& roots() const { return roots_; }

 private:
  Result<std::filesystem::path> Resolve(std::string_view name) const;

  std::vector<std::filesystem::path> roots_;  // resolved
};

}  // namespace hproc::web
