#include "controller/slurm/frame_channel.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace hproc::controller {
namespace {

constexpr size_t kHeadBytes = 5;

}  // namespace

FrameChannel::FrameChannel(UniqueFd socket, std::chrono::seconds most_silence) : socket_(std::move(socket)) {
  ::fcntl(socket_.get(), F_SETFL, ::fcntl(socket_.get(), F_GETFL) | O_NONBLOCK);
  // A machine that lost its power says nothing. The user timeout bounds that whether anything is under way to it or not; where
  // nothing is, probes every twelfth of it see to it that there is something to answer. (With a user timeout the number of
  // probes does not count: tcp(7).)
  const auto silence = static_cast<int>(most_silence.count());
  const int between = std::max(1, silence / 12);
  for (const auto& [level, option, value] : {std::array<int, 3>{SOL_SOCKET, SO_KEEPALIVE, 1},
                                             {IPPROTO_TCP, TCP_KEEPIDLE, between},
                                             {IPPROTO_TCP, TCP_KEEPINTVL, between},
                                             {IPPROTO_TCP, TCP_USER_TIMEOUT, 1000 * silence},
                                             {IPPROTO_TCP, TCP_NODELAY, 1}}) {
    ::setsockopt(socket_.get(), level, option, &value, sizeof value);
  }
}

void FrameChannel::Send(char type, std::string_view payload) {
  if (broken_) return;  // nobody takes it any more
  do {
    const std::string_view piece = payload.substr(0, kMaxFrameBytes);
    const auto size = static_cast<uint32_t>(piece.size());
    outgoing_ += type;
    for (int shift = 0; shift < 32; shift += 8) outgoing_ += static_cast<char>(size >> shift);
    outgoing_ += piece;
    payload.remove_prefix(piece.size());
  } while (!payload.empty());
}

void FrameChannel::Flush() {
  size_t written = 0;
  while (!broken_ && written < outgoing_.size()) {
    const ssize_t n = ::send(socket_.get(), outgoing_.data() + written, outgoing_.size() - written, MSG_NOSIGNAL);
    if (n >= 0) {
      written += static_cast<size_t>(n);
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      broken_ = true;
    }
  }
  outgoing_.erase(0, written);
}

void FrameChannel::Read() {
  std::array<char, 64 << 10> chunk{};
  const ssize_t n = ::recv(socket_.get(), chunk.data(), chunk.size(), 0);
  if (n > 0) {
    incoming_.append(chunk.data(), static_cast<size_t>(n));
  } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
    broken_ = true;
  }
}

std::optional<Frame> FrameChannel::Next() {
  if (incoming_.size() < kHeadBytes) return std::nullopt;
  uint32_t size = 0;
  for (int i = 3; i >= 0; --i) size = (size << 8) | static_cast<unsigned char>(incoming_[static_cast<size_t>(i) + 1]);
  if (size > kMaxFrameBytes) {
    broken_ = true;
    incoming_.clear();
    return std::nullopt;
  }
  if (incoming_.size() < kHeadBytes + size) return std::nullopt;
  Frame frame{incoming_[0], incoming_.substr(kHeadBytes, size)};
  incoming_.erase(0, kHeadBytes + size);
  return frame;
}

}  // namespace hproc::controller
