#include "controller/file_lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <climits>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

namespace hproc::controller {
namespace {

// How long a killed holder's child, caught between fork and exec, may keep the lock.
constexpr std::chrono::seconds kDyingChild{1};

Error LockError(const std::filesystem::path& lock_file, const char* what) {
  const int code = errno;
  return Error{std::string(what) + " " + lock_file.filename().string() + ": " +
               std::generic_category().message(code)};
}

// What the holder wrote, if it reads like that: anybody may have put anything there.
std::string Holder(int fd) {
  std::array<char, 256> buffer{};
  const ssize_t count = ::pread(fd, buffer.data(), buffer.size(), 0);
  std::string text;
  for (ssize_t i = 0; i < count; ++i) {
    const char c = buffer[static_cast<size_t>(i)];
    if (c == '\n') return text;
    if (c < ' ' || c > '~') break;
    text += c;
  }
  return "another process";
}

// The number in "hproc pid 123 on host since …"; -1 where there is none.
pid_t PidIn(const std::string& holder) {
  constexpr std::string_view kBefore = "hproc pid ";
  pid_t pid = -1;
  if (!holder.starts_with(kBefore)) return -1;
  const char* number = holder.c_str() + kBefore.size();
  const bool is_number = std::from_chars(number, holder.c_str() + holder.size(), pid).ec == std::errc{};
  return is_number && pid > 0 ? pid : -1;
}

std::string HostName() {
  std::array<char, HOST_NAME_MAX + 1> host{};
  return ::gethostname(host.data(), host.size() - 1) == 0 ? host.data() : "?";
}

// Whether the process that the holder's name speaks of is gone from this machine.
bool IsGone(const std::string& holder) {
  const pid_t pid = PidIn(holder);
  return pid > 0 && holder.find(" on " + HostName() + " since ") != std::string::npos && ::kill(pid, 0) != 0 && errno == ESRCH;
}

// Best effort: on a full disk the lock holds without a name.
void WriteHolder(int fd, std::string_view now_utc) {
  const std::string text = "hproc pid " + std::to_string(::getpid()) + " on " + HostName() +
                           " since " + std::string(now_utc) + "\n";
  if (::ftruncate(fd, 0) != 0) return;
  [[maybe_unused]] const ssize_t written = ::pwrite(fd, text.data(), text.size(), 0);
}

// False where somebody removed or replaced the file between our open and our lock: ours then locks
// nothing.
bool IsStill(const std::filesystem::path& path, int fd) {
  struct stat named {};
  struct stat opened {};
  return ::lstat(path.c_str(), &named) == 0 && ::fstat(fd, &opened) == 0 &&
         named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
}

}  // namespace

Result<FileLock> FileLock::Acquire(const std::filesystem::path& file, std::string_view now_utc) {
  std::filesystem::path path = file;
  path += ".lock";
  const auto patience = std::chrono::steady_clock::now() + kDyingChild;
  while (true) {
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!fd) return LockError(path, "cannot create or open its lock file");
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno == EWOULDBLOCK) {
        const std::string holder = Holder(fd.get());
        if (!IsGone(holder) || std::chrono::steady_clock::now() > patience) return Error{"is in use by " + holder};
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        continue;
      }
      return LockError(path, "cannot lock its lock file");
    }
    if (!IsStill(path, fd.get())) continue;
    WriteHolder(fd.get(), now_utc);
    return FileLock(std::move(fd));
  }
}

std::optional<LockHolder> HolderOf(const std::filesystem::path& file) {
  std::error_code code;
  std::filesystem::path path = std::filesystem::canonical(file, code);
  if (code) return std::nullopt;
  path += ".lock";
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) return std::nullopt;
  LockHolder holder{.pid = -1, .text = Holder(fd.get())};
  holder.pid = PidIn(holder.text);
  if (holder.pid < 0) return std::nullopt;
  struct stat named {};
  if (::fstat(fd.get(), &named) != 0) return std::nullopt;
  const std::filesystem::path descriptors = "/proc/" + std::to_string(holder.pid) + "/fd";
  for (std::filesystem::directory_iterator entry(descriptors, code), end; !code && entry != end; entry.increment(code)) {
    struct stat opened {};
    if (::stat(entry->path().c_str(), &opened) != 0) continue;
    if (holder.pid == ::getpid() && entry->path().filename() == std::to_string(fd.get())) continue;  // ours, just opened
    if (opened.st_ino == named.st_ino && opened.st_dev == named.st_dev) return holder;
  }
  return std::nullopt;
}

FileLock::~FileLock() {
  // So that a holder's name outlives it only where it was killed.
  if (fd_) [[maybe_unused]]
    const int emptied = ::ftruncate(fd_.get(), 0);
}

}  // namespace hproc::controller
