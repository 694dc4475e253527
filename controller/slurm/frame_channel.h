// FrameChannel: what relay and agent say to each other once they know each other, over one TCP connection.
//
// A frame is a type (one byte), a length (four bytes, little endian) and so many bytes:
//
//   relay ▶ agent   C  bytes for the worker's stdin             E  no more of them: the worker is to end
//   agent ▶ relay   H  hello, a note of its job and node        V  bytes of the worker's events pipe
//                   X  the worker's end, a note; the last       (notes: controller/launch_note.h)
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace hproc::controller {

struct Frame {
  char type;
  std::string payload;
};

inline constexpr char kControlFrame = 'C';
inline constexpr char kEndControlFrame = 'E';
inline constexpr char kHelloFrame = 'H';
inline constexpr char kEventsFrame = 'V';
inline constexpr char kExitFrame = 'X';

inline constexpr size_t kMaxFrameBytes = size_t{64} << 10;
// Beyond so many bytes that wait to be sent no more are taken in.
inline constexpr size_t kMostQueuedBytes = size_t{1} << 20;

// How long the other machine may say nothing at all, not even that it has got what was sent, before it is taken for lost: as
// long as a reader may take none of what is sent to it.
inline constexpr std::chrono::seconds kMostSilence{120};

// Nothing blocks. Thread-compatible.
class FrameChannel {
 public:
  // The socket is made non-blocking; keep-alive and no delay are set.
  explicit FrameChannel(UniqueFd socket, std::chrono::seconds most_silence = kMostSilence);

  // Queues, in several frames of `type` where it is longer than one; nothing once the channel is broken.
  void Send(char type, std::string_view payload);
  void Flush();
  // Takes in what is there.
  void Read();
  std::optional<Frame> Next();

  // The other side is gone or silent, or says what is no frame. What came before can still be taken by Next.
  bool broken() const { return broken_; }
  bool has_to_write() const { return !broken_ && !outgoing_.empty(); }
  size_t queued_bytes() const { return outgoing_.size(); }
  int fd() const { return socket_.get(); }

 private:
  UniqueFd socket_;
  std::string incoming_;
  std::string outgoing_;
  bool broken_ = false;
};

}  // namespace hproc::controller
