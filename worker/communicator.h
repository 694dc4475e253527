// Communicator: what the ranks of a trial tell each other through the host: partial sums of CPU ranks, what rank 0 has the
// others do, and how the others are. (Sums on devices: kernels/device_backend.h.)
//
// Every operation is called by all ranks in the same order with the same sizes; a rank that calls another one is a bug and
// ends them all. A star of stream sockets with rank 0 in the middle: sums are made there, in double and in order of ranks, so
// that every rank gets the same bits, and the same ones every time.
//
// A rank that ends, by whatever way, closes its sockets: the others see it at once, in the operation they are in or the next,
// and throw RankLost. One that keeps silent is given up after Communicator::patience.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace hproc::worker {

// Another rank is gone or does not answer.
class RankLost : public std::runtime_error {
 public:
  RankLost(int rank, bool is_silent, const std::string& message)
      : std::runtime_error(message), rank_(rank), is_silent_(is_silent) {}
  int rank() const { return rank_; }
  bool is_silent() const { return is_silent_; }  // it may be there still; otherwise it is gone

 private:
  int rank_;
  bool is_silent_;
};

// Thread-compatible.
class Communicator {
 public:
  using Duration = std::chrono::milliseconds;
  static constexpr Duration kForever = Duration::max();

  // `links`: on rank 0 the sockets to ranks 1, 2, …; elsewhere the one to rank 0.
  Communicator(int rank, int world_size, std::vector<UniqueFd> links);

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

  // How long an operation waits for another rank, but where a call says otherwise. Beyond what any pass takes, below what
  // the controller's watchdog allows a worker to stand still.
  Duration patience = std::chrono::seconds(120);
  // Called about once a second while an operation waits.
  std::function<void()> on_wait;

  // Element by element over all ranks.
  void AllReduceSum(std::span<double> values);
  void AllReduceSum(std::span<float> values);
  void AllReduceMax(std::span<float> values);  // NaN where any is
  // Rank 0's bytes, on every rank.
  void Broadcast(std::vector<std::byte>& bytes, Duration wait);
  // On rank 0 what each rank gave, in order of ranks; elsewhere empty. Sizes may differ.
  std::vector<std::vector<std::byte>> Gather(std::span<const std::byte> bytes, Duration wait);
  // Throws where a rank is gone; never waits.
  void CheckRanks();

 private:
  enum class Operation : uint32_t { kSum64, kSum32, kMax, kBroadcast, kGather };
  // Own values in, everybody's out; `take(rank's values)` is called on rank 0, in order of ranks.
  template <typename T, typename Take>
  void AllReduce(Operation operation, std::span<T> values, Take&& take);
  int PeerOf(size_t link) const { return rank_ == 0 ? static_cast<int>(link) + 1 : 0; }
  void Send(size_t link, Operation operation, std::span<const std::byte> bytes, Duration wait);
  // The size of what comes, then the bytes.
  size_t ReceiveSize(size_t link, Operation operation, Duration wait);
  void ReceiveBytes(size_t link, std::span<std::byte> bytes, Duration wait);
  void Wait(size_t link, short events, std::chrono::steady_clock::time_point since, Duration wait);
  [[noreturn]] void Gone(size_t link) const;

  const int rank_;
  const int world_size_;
  const std::vector<UniqueFd> links_;
  std::vector<double> sums_;
};

// The ranks of one process, by rank: for threads.
Result<std::vector<std::unique_ptr<Communicator>>> LocalCommunicators(int world_size);

// Meets the other ranks of the trial at `rendezvous`, "unix:" and the path of a socket, which rank 0 makes, for this user
// alone, and removes when all are there. Processes of other users are turned away. Fails after `wait`; `on_wait` as above.
Result<std::unique_ptr<Communicator>> MeetRanks(const std::string& rendezvous, int rank, int world_size,
                                                Communicator::Duration wait, const std::function<void()>& on_wait = {});
// Whether MeetRanks understands it.
Result<void> CheckRendezvous(const std::string& rendezvous);
// One that no other trial has, in the folder `in`; empty: the system's for temporary files, which another machine need not have.
std::string NewRendezvous(const std::string& in = "");

}  // namespace hproc::worker
