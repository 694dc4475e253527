// Files that the tests of evals write and read.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace hproc::evals {

// A file of its own for each object, gone with it.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view content) {
    std::string name = (std::filesystem::temp_directory_path() / "hproc_evals_XXXXXX").string();
    const int fd = ::mkstemp(name.data());
    if (fd >= 0) ::close(fd);
    path_ = name;
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::filesystem::path WordmathFolder() {
  return std::filesystem::path(HPROC_SOURCE_DIR) / "evals" / "wordmath";
}

// Where GSM8K lies, which is not part of the project: $HPROC_GSM8K_DIR, or else ../shared/gsm8k
// beside it.
inline std::filesystem::path Gsm8kFolder() {
  if (const char* folder = std::getenv("HPROC_GSM8K_DIR")) return folder;
  return std::filesystem::path(HPROC_SOURCE_DIR) / ".." / "shared" / "gsm8k";
}

inline bool HasGsm8k() { return std::filesystem::exists(Gsm8kFolder() / "test.jsonl"); }

}  // namespace hproc::evals

#define HPROC_SKIP_WITHOUT_GSM8K()                                                            \
  if (!HasGsm8k()) {                                                                          \
    GTEST_SKIP()                                                                              \
        << "GSM8K is not here; set HPROC_GSM8K_DIR to a folder with test.jsonl, train.jsonl"; \
  }
