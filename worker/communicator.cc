#include "worker/communicator.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>

#include "base/check.h"
#include "base/printable.h"

namespace hproc::worker {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::duration_cast;
using std::chrono::milliseconds;

constexpr std::string_view kUnix = "unix:";
constexpr std::chrono::milliseconds kTick{1000};
constexpr int64_t kMostBytes = int64_t{1} << 40;

struct Head {
  uint32_t operation = 0;
  uint32_t magic = 0x68707263;
  int64_t bytes = 0;
};

// What a rank says when it comes to the rendezvous.
struct Greeting {
  uint32_t magic = 0x72616e6b;
  int32_t rank = 0;
  int32_t world_size = 0;
};

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

Error Failed(const std::string& what) { return Error{what + ": " + std::generic_category().message(errno)}; }

Result<sockaddr_un> AddressOf(const std::string& rendezvous) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string_view path = std::string_view(rendezvous).substr(std::min(kUnix.size(), rendezvous.size()));
  if (!rendezvous.starts_with(kUnix) || path.empty() || path.front() != '/' || path.find('\0') != std::string_view::npos) {
    return Error{"rendezvous '" + Printable(rendezvous) + "' is not unix: and the path of a socket"};
  }
  if (path.size() >= sizeof address.sun_path) {
    return Error{"rendezvous '" + Printable(rendezvous) + "': a path of more than " +
                 std::to_string(sizeof address.sun_path - 1) + " bytes"};
  }
  std::ranges::copy(path, address.sun_path);
  return address;
}

// Of this user.
bool IsOwn(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == ::geteuid();
}

// Reads a greeting, which comes at once from whoever should be here.
bool ReadGreeting(int socket, Greeting& greeting) {
  pollfd wait{.fd = socket, .events = POLLIN, .revents = 0};
  if (::poll(&wait, 1, 5000) <= 0) return false;
  return ::recv(socket, &greeting, sizeof greeting, MSG_WAITALL) == static_cast<ssize_t>(sizeof greeting) &&
         greeting.magic == Greeting{}.magic;
}

milliseconds Left(Clock::time_point until) {
  return std::max(milliseconds(0), duration_cast<milliseconds>(until - Clock::now()));
}

// Rank 0's side: takes the others in as they come.
Result<std::vector<UniqueFd>> Receive(const sockaddr_un& address, int world_size, Clock::time_point until,
                                      const std::function<void()>& on_wait) {
  const UniqueFd door(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!door) return Failed("cannot make a socket");
  // Nobody comes in before listen; after it, this user alone.
  if (::bind(door.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Failed("cannot make the rendezvous " + std::string(address.sun_path));
  }
  struct Remover {
    const char* path;
    ~Remover() { ::unlink(path); }
  } const remover{address.sun_path};
  if (::chmod(address.sun_path, S_IRUSR | S_IWUSR) != 0 || ::listen(door.get(), world_size) != 0) {
    return Failed("cannot wait at the rendezvous " + std::string(address.sun_path));
  }
  std::vector<UniqueFd> links(static_cast<size_t>(world_size) - 1);
  for (size_t missing = links.size(); missing > 0;) {
    pollfd wait{.fd = door.get(), .events = POLLIN, .revents = 0};
    const milliseconds left = Left(until);
    if (left.count() == 0) return Error{std::to_string(missing) + " of " + std::to_string(world_size) + " ranks did not come"};
    if (::poll(&wait, 1, static_cast<int>(std::min(left, kTick).count())) <= 0) {
      if (on_wait) on_wait();
      continue;
    }
    UniqueFd guest(::accept4(door.get(), nullptr, nullptr, SOCK_CLOEXEC));
    Greeting greeting;
    if (!guest || !IsOwn(guest.get()) || !ReadGreeting(guest.get(), greeting)) continue;
    if (greeting.world_size != world_size || greeting.rank < 1 || greeting.rank >= world_size) continue;
    UniqueFd& link = links[static_cast<size_t>(greeting.rank) - 1];
    if (link) return Error{"rank " + std::to_string(greeting.rank) + " came twice to the rendezvous"};
    link = std::move(guest);
    --missing;
  }
  return links;
}

// The others' side: rank 0 may be late.
Result<std::vector<UniqueFd>> Come(const sockaddr_un& address, int rank, int world_size, Clock::time_point until,
                                   const std::function<void()>& on_wait) {
  for (;;) {
    UniqueFd link(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!link) return Failed("cannot make a socket");
    if (::connect(link.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      const Greeting greeting{.rank = rank, .world_size = world_size};
      if (!IsOwn(link.get()) ||
          ::send(link.get(), &greeting, sizeof greeting, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof greeting)) {
        return Error{"rank 0 is gone from the rendezvous " + std::string(address.sun_path)};
      }
      std::vector<UniqueFd> links;
      links.push_back(std::move(link));
      return links;
    }
    if (errno != ENOENT && errno != ECONNREFUSED && errno != EAGAIN && errno != EINTR && errno != EACCES) {
      return Failed("cannot come to the rendezvous " + std::string(address.sun_path));
    }
    if (Left(until).count() == 0) return Error{"rank 0 did not come to the rendezvous " + std::string(address.sun_path)};
    if (on_wait) on_wait();
    std::this_thread::sleep_for(milliseconds(5));
  }
}

}  // namespace

Communicator::Communicator(int rank, int world_size, std::vector<UniqueFd> links)
    : rank_(rank), world_size_(world_size), links_(std::move(links)) {
  HPROC_CHECK(rank >= 0 && rank < world_size && links_.size() == (rank == 0 ? static_cast<size_t>(world_size) - 1 : 1),
              "links of a rank");
}

void Communicator::Gone(size_t link) const {
  throw RankLost(PeerOf(link), false, "rank " + std::to_string(PeerOf(link)) + " is gone");
}

void Communicator::Wait(size_t link, short events, Clock::time_point since, Duration wait) {
  for (;;) {
    pollfd ready_fd{.fd = links_[link].get(), .events = events, .revents = 0};
    const int ready = ::poll(&ready_fd, 1, static_cast<int>(kTick.count()));
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) throw std::system_error(errno, std::generic_category(), "poll");
    if (on_wait) on_wait();
    const auto waited = duration_cast<Duration>(Clock::now() - since);
    if (wait != kForever && waited >= wait) {
      throw RankLost(PeerOf(link), true,
                     "rank " + std::to_string(PeerOf(link)) + " has kept the others waiting for " +
                         std::to_string(waited.count() / 1000) + " s");
    }
  }
}

void Communicator::Send(size_t link, Operation operation, std::span<const std::byte> bytes, Duration wait) {
  const Head head{.operation = static_cast<uint32_t>(operation), .bytes = static_cast<int64_t>(bytes.size())};
  std::span<const std::byte> parts[] = {BytesOf(head), bytes};
  const auto since = Clock::now();
  while (!parts[0].empty() || !parts[1].empty()) {
    iovec vectors[2];
    size_t count = 0;
    for (const std::span<const std::byte>& part : parts) {
      if (!part.empty()) vectors[count++] = {const_cast<std::byte*>(part.data()), part.size()};
    }
    msghdr message{};
    message.msg_iov = vectors;
    message.msg_iovlen = count;
    const ssize_t sent = ::sendmsg(links_[link].get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        Wait(link, POLLOUT, since, wait);
      } else if (errno != EINTR) {
        Gone(link);
      }
      continue;
    }
    auto left = static_cast<size_t>(sent);
    for (std::span<const std::byte>& part : parts) {
      const size_t taken = std::min(left, part.size());
      part = part.subspan(taken);
      left -= taken;
    }
  }
}

void Communicator::ReceiveBytes(size_t link, std::span<std::byte> bytes, Duration wait) {
  const auto since = Clock::now();
  while (!bytes.empty()) {
    const ssize_t count = ::recv(links_[link].get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (count > 0) {
      bytes = bytes.subspan(static_cast<size_t>(count));
    } else if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      Wait(link, POLLIN, since, wait);
    } else if (count == 0 || errno != EINTR) {
      Gone(link);
    }
  }
}

size_t Communicator::ReceiveSize(size_t link, Operation operation, Duration wait) {
  Head head;
  ReceiveBytes(link, std::as_writable_bytes(std::span(&head, 1)), wait);
  HPROC_CHECK(head.magic == Head{}.magic && head.operation == static_cast<uint32_t>(operation) && head.bytes >= 0 &&
                  head.bytes <= kMostBytes,
              "ranks that do the same");
  return static_cast<size_t>(head.bytes);
}

template <typename T, typename Take>
void Communicator::AllReduce(Operation operation, std::span<T> values, Take&& take) {
  const std::span<std::byte> bytes = std::as_writable_bytes(values);
  const auto receive = [&](size_t link, std::span<std::byte> into) {
    HPROC_CHECK(ReceiveSize(link, operation, patience) == into.size(), "ranks with as many values");
    ReceiveBytes(link, into, patience);
  };
  if (rank_ != 0) {
    Send(0, operation, bytes, patience);
    receive(0, bytes);
    return;
  }
  take(values);
  std::vector<T> others(values.size());
  for (size_t link = 0; link < links_.size(); ++link) {
    receive(link, std::as_writable_bytes(std::span(others)));
    take(std::span<T>(others));
  }
}

void Communicator::AllReduceSum(std::span<double> values) {
  AllReduce(Operation::kSum64, values, [&](std::span<double> of_rank) {
    if (of_rank.data() == values.data()) return;
    for (size_t i = 0; i < values.size(); ++i) values[i] += of_rank[i];
  });
  if (rank_ != 0) return;
  for (size_t link = 0; link < links_.size(); ++link) Send(link, Operation::kSum64, std::as_bytes(values), patience);
}

void Communicator::AllReduceSum(std::span<float> values) {
  AllReduce(Operation::kSum32, values, [&](std::span<float> of_rank) {
    if (of_rank.data() == values.data()) {
      sums_.assign(values.begin(), values.end());
      return;
    }
    for (size_t i = 0; i < values.size(); ++i) sums_[i] += static_cast<double>(of_rank[i]);
  });
  if (rank_ != 0) return;
  std::ranges::transform(sums_, values.begin(), [](double sum) { return static_cast<float>(sum); });
  for (size_t link = 0; link < links_.size(); ++link) Send(link, Operation::kSum32, std::as_bytes(values), patience);
}

void Communicator::AllReduceMax(std::span<float> values) {
  AllReduce(Operation::kMax, values, [&](std::span<float> of_rank) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(of_rank[i]) || of_rank[i] > values[i]) values[i] = of_rank[i];
    }
  });
  if (rank_ != 0) return;
  for (size_t link = 0; link < links_.size(); ++link) Send(link, Operation::kMax, std::as_bytes(values), patience);
}

void Communicator::Broadcast(std::vector<std::byte>& bytes, Duration wait) {
  if (rank_ == 0) {
    for (size_t link = 0; link < links_.size(); ++link) Send(link, Operation::kBroadcast, bytes, wait);
    return;
  }
  bytes.resize(ReceiveSize(0, Operation::kBroadcast, wait));
  ReceiveBytes(0, bytes, wait);
}

std::vector<std::vector<std::byte>> Communicator::Gather(std::span<const std::byte> bytes, Duration wait) {
  std::vector<std::vector<std::byte>> all;
  if (rank_ != 0) {
    Send(0, Operation::kGather, bytes, wait);
    return all;
  }
  all.emplace_back(bytes.begin(), bytes.end());
  for (size_t link = 0; link < links_.size(); ++link) {
    std::vector<std::byte>& of_rank = all.emplace_back(ReceiveSize(link, Operation::kGather, wait));
    ReceiveBytes(link, of_rank, wait);
  }
  return all;
}

void Communicator::CheckRanks() {
  for (size_t link = 0; link < links_.size(); ++link) {
    std::byte next;
    const ssize_t count = ::recv(links_[link].get(), &next, 1, MSG_PEEK | MSG_DONTWAIT);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) Gone(link);
  }
}

Result<std::vector<std::unique_ptr<Communicator>>> LocalCommunicators(int world_size) {
  std::vector<std::vector<UniqueFd>> links(static_cast<size_t>(world_size));
  for (size_t rank = 1; rank < links.size(); ++rank) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return Failed("cannot make a pair of sockets");
    links[0].emplace_back(ends[0]);
    links[rank].emplace_back(ends[1]);
  }
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int rank = 0; rank < world_size; ++rank) {
    communicators.push_back(std::make_unique<Communicator>(rank, world_size, std::move(links[static_cast<size_t>(rank)])));
  }
  return communicators;
}

Result<std::unique_ptr<Communicator>> MeetRanks(const std::string& rendezvous, int rank, int world_size,
                                                Communicator::Duration wait, const std::function<void()>& on_wait) {
  const Result<sockaddr_un> address = AddressOf(rendezvous);
  if (!address.ok()) return address.error();
  const auto until = Clock::now() + wait;
  Result<std::vector<UniqueFd>> links =
      rank == 0 ? Receive(*address, world_size, until, on_wait) : Come(*address, rank, world_size, until, on_wait);
  if (!links.ok()) return links.error();
  return std::make_unique<Communicator>(rank, world_size, std::move(*links));
}

Result<void> CheckRendezvous(const std::string& rendezvous) {
  const Result<sockaddr_un> address = AddressOf(rendezvous);
  if (!address.ok()) return address.error();
  return Ok();
}

std::string NewRendezvous(const std::string& in) {
  uint64_t parts[2] = {};
  HPROC_CHECK(::getrandom(parts, sizeof parts, 0) == static_cast<ssize_t>(sizeof parts), "random numbers");
  char name[64];
  std::snprintf(name, sizeof name, "hproc-%016llx%016llx", static_cast<unsigned long long>(parts[0]),
                static_cast<unsigned long long>(parts[1]));
  std::error_code error;
  std::filesystem::path folder = in.empty() ? std::filesystem::temp_directory_path(error) : std::filesystem::path(in);
  // The path of a socket is short; a long TMPDIR has no room for it.
  if (error || folder.string().size() > 40) folder = "/tmp";
  return std::string(kUnix) + (folder / name).string();
}

}  // namespace hproc::worker
