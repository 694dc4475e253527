#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/unique_fd.h"

namespace hproc {
namespace {

Error SystemError(const std::filesystem::path& path, const char* what) {
  return Error{path.string() + ": " + what + ": " + std::generic_category().message(errno)};
}

}  // namespace

Result<std::string> ReadFile(const std::filesystem::path& path, int64_t max_bytes) {
  // O_NONBLOCK: a pipe without a writer would hold up open(), where it is to be refused below.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return SystemError(path, "cannot open");
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return SystemError(path, "cannot stat");
  if (!S_ISREG(info.st_mode)) return Error{path.string() + ": not a regular file"};
  if (info.st_size > max_bytes) {
    return Error{path.string() + ": " + std::to_string(info.st_size) + " bytes, more than the " +
                 std::to_string(max_bytes) + " allowed"};
  }
  std::string content(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = ::read(fd.get(), content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path, "cannot read");
    if (n == 0) break;  // truncated while being read: what was there is what we return
    done += static_cast<size_t>(n);
  }
  content.resize(done);
  return content;
}

Result<void> WriteFileAtomically(const std::filesystem::path& path, std::string_view content) {
  std::filesystem::path temporary = path;
  temporary += ".tmp" + std::to_string(::getpid());
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) return SystemError(temporary, "cannot create");
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = ::write(fd.get(), content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Error error = SystemError(path, "cannot write");
      ::unlink(temporary.c_str());
      return error;
    }
    done += static_cast<size_t>(n);
  }
  if (::fsync(fd.get()) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0) {
    Error error = SystemError(path, "cannot write");
    ::unlink(temporary.c_str());
    return error;
  }
  return Ok();
}

}  // namespace hproc
