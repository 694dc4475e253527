// CodebookFit (quant/codebook_fit.h) by a team of lanes: the same steps, the same bits.
//
// A thread alone spends its time waiting: some 60,000 dependent loads a row at K = 64. What the steps of a fit do for each of K
// intervals is shared out among kTeam lanes, so that the loads overlap:
//
//   Lloyd, measuring   a border found above border k - 1 is the larger of that border and the one found anywhere: searches run
//                      side by side, a running maximum puts them in order
//   sums               terms side by side, added up one by one in order
//   ShiftBorders       serial in the CPU's order, as a border moves because the one below it did; but most do not move. Lanes
//                      try the next kTeam unsettled borders; all below the first that would move are settled, that one moves,
//                      and the rest are tried again
//   SplitAndMerge      best gain and least cost by reduction, ties to the lower interval
//
// State that lanes share lies in shared memory (TeamState); the rest is the same in every lane.
#pragma once

#include "kernels/cuda/quantize_device.cuh"

namespace hproc::kernels::cuda {

struct TeamState {
  double centers[quant::kMaxLevels];
  double sums[quant::kMaxLevels + 1];  // of the values before each border
  int borders[quant::kMaxLevels + 1];
  float centroids[quant::kMaxLevels];
};

// All methods are called by all lanes of a team together.
template <typename Channel, int kTeam>
class TeamFit {
 public:
  __device__ TeamFit(const Channel& channel, TeamState& state) : channel_(channel), state_(state) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    lane_ = lane % kTeam;
    mask_ = kTeam == 32 ? ~0u : ((1u << kTeam) - 1) << (lane / kTeam * kTeam);
  }

  __device__ int lane() const { return lane_; }

  __device__ void Begin(const quant::ChannelMoments& moments, int levels, quant::Centroids centroids,
                        const double* start) {
    levels_ = levels;
    centroids_format_ = centroids;
    square_ = moments.square;
    const int columns = channel_.columns();
    const double mean = moments.Mean(columns);
    const double deviation = moments.Deviation(columns);
    const double lowest = channel_.Value(0) + 0.0;  // -0 becomes 0: not all sorts keep it
    const double highest = channel_.Value(columns - 1) + 0.0;
    for (int k = lane_; k < levels; k += kTeam) {
      const double center = mean + deviation * start[k];
      state_.centers[k] = center < lowest ? lowest : (highest < center ? highest : center);
      state_.borders[k] = static_cast<int>(static_cast<int64_t>(columns) * k / levels);
    }
    if (lane_ == 0) state_.borders[levels] = 0;
    Sync();
  }

  __device__ void FitFirst(int low, int high) {
    Lloyd(low, high);
    unsettled_ = ~uint64_t{0};
    ShiftBorders(quant::kFirstSteps);
    SplitAndMerge();
  }

  __device__ void FitNext(int low, int high) {
    const int last = channel_.columns() - high;
    for (int k = lane_; k <= levels_; k += kTeam) {
      const int old = state_.borders[k];
      const int border = k == 0 ? low : (k == levels_ ? last : min(max(old, low), last));
      if (border == old) continue;
      state_.borders[k] = border;
      state_.sums[k] = channel_.Sum(border);
    }
    Sync();
    Unsettle(1);
    Unsettle(levels_ - 1);
    ShiftBorders(quant::kFollowSteps);
  }

  __device__ void RoundAndMeasure(int low, int high) {
    const int columns = channel_.columns();
    if (square_ == 0) {
      scale_ = 0;
      for (int k = lane_; k < levels_; k += kTeam) state_.centroids[k] = 0;
      Sync();
      cosine_ = norm_ratio_ = 1;
      return;
    }
    const double first = fabs(state_.centers[0]);
    const double final = fabs(state_.centers[levels_ - 1]);
    const auto exact = static_cast<float>((first < final ? final : first) / quant::kLargestInt8);
    scale_ = quant::FloatToBfloat16(exact);
    if (quant::Bfloat16ToFloat(scale_) < exact) ++scale_;
    const double scale = quant::Bfloat16ToFloat(scale_);
    for (int k = lane_; k < levels_; k += kTeam) {
      state_.centroids[k] = quant::RoundCentroid(scale > 0 ? state_.centers[k] / scale : 0, centroids_format_);
    }
    Sync();

    double dot = 0;
    double code_square = 0;
    int begin = 0;  // of the team's first interval, and the sum before it
    double before = 0;
    for (int base = 0; base < levels_; base += kTeam) {
      const int k = base + lane_;
      int end = columns;
      if (k + 1 < levels_) {
        end = quant::LowerBoundNear(channel_, 0, columns, state_.borders[k + 1], Threshold(k + 1));
      }
      end = RunningMax(end, begin);
      const double sum = channel_.Sum(end);
      int own_begin = __shfl_up_sync(mask_, end, 1, kTeam);
      double own_before = __shfl_up_sync(mask_, sum, 1, kTeam);
      if (lane_ == 0) own_begin = begin, own_before = before;
      double dot_term = 0;
      double square_term = 0;
      if (k < levels_) {
        const double center = scale * static_cast<double>(state_.centroids[k]);
        dot_term = center * (sum - own_before);
        square_term = center * center * (end - own_begin);
      }
      AddInOrder(dot_term, square_term, min(kTeam, levels_ - base), dot, code_square);
      begin = __shfl_sync(mask_, end, kTeam - 1, kTeam);
      before = __shfl_sync(mask_, sum, kTeam - 1, kTeam);
    }
    const int outliers = low + high;
    for (int base = 0; base < outliers; base += kTeam) {
      const int j = base + lane_;
      double dot_term = 0;
      double square_term = 0;
      if (j < outliers) {
        Correct(channel_.Value(j < low ? j : columns - outliers + j), j < low ? 0 : levels_ - 1, scale, dot_term,
                square_term);
      }
      AddInOrder(dot_term, square_term, min(kTeam, outliers - base), dot, code_square);
    }
    norm_ratio_ = sqrt(code_square / square_);
    const double cosine = code_square > 0 ? dot / sqrt(code_square * square_) : 0;
    cosine_ = cosine < 1.0 ? cosine : 1.0;
  }

  // For a CodebookFit that goes on: centers [levels][stride], borders [levels + 1][stride].
  __device__ void Save(double* centers, int* borders, unsigned long long* unsettled, int64_t stride) const {
    for (int k = lane_; k <= levels_; k += kTeam) {
      if (k < levels_) centers[k * stride] = state_.centers[k];
      borders[k * stride] = state_.borders[k];
    }
    if (lane_ == 0) *unsettled = unsettled_;
  }

  __device__ float centroid(int k) const { return state_.centroids[k]; }
  __device__ uint16_t scale() const { return scale_; }
  __device__ double cosine() const { return cosine_; }
  __device__ double norm_ratio() const { return norm_ratio_; }

 private:
  __device__ void Sync() const { __syncwarp(mask_); }
  __device__ float Threshold(int k) const {
    return quant::CodeThreshold(quant::Bfloat16ToFloat(scale_), state_.centroids[k - 1], state_.centroids[k]);
  }
  __device__ void Unsettle(int k) {
    if (k < quant::kMaxLevels) unsettled_ |= uint64_t{1} << k;
  }

  // The largest of `floor` and the values of this lane and those below.
  __device__ int RunningMax(int value, int floor) const {
    value = max(value, floor);
#pragma unroll
    for (int step = 1; step < kTeam; step *= 2) {
      const int other = __shfl_up_sync(mask_, value, step, kTeam);
      if (lane_ >= step) value = max(value, other);
    }
    return value;
  }

  __device__ void AddInOrder(double dot_term, double square_term, int count, double& dot, double& square) const {
    for (int j = 0; j < count; ++j) {
      dot += __shfl_sync(mask_, dot_term, j, kTeam);
      square += __shfl_sync(mask_, square_term, j, kTeam);
    }
  }

  __device__ void SumAll() {
    for (int k = lane_; k <= levels_; k += kTeam) state_.sums[k] = channel_.Sum(state_.borders[k]);
    Sync();
  }
  __device__ void CenterAll() {
    for (int k = lane_; k < levels_; k += kTeam) {
      const int begin = state_.borders[k];
      const int end = state_.borders[k + 1];
      if (end > begin) state_.centers[k] = (state_.sums[k + 1] - state_.sums[k]) / static_cast<double>(end - begin);
    }
    Sync();
  }

  __device__ void Lloyd(int low, int high) {
    const int last = channel_.columns() - high;
    for (int step = 0; step < quant::kFirstSteps; ++step) {
      bool moved = state_.borders[0] != low || state_.borders[levels_] != last;
      Sync();
      if (lane_ == 0) state_.borders[0] = low, state_.borders[levels_] = last;
      int floor = low;
      for (int base = 1; base < levels_; base += kTeam) {
        const int k = base + lane_;
        int border = low;
        int old = low;
        if (k < levels_) {
          old = state_.borders[k];
          border = quant::LowerBoundNear(channel_, low, last, old,
                                         static_cast<float>(0.5 * (state_.centers[k - 1] + state_.centers[k])));
        }
        border = RunningMax(border, floor);
        if (k < levels_) {
          moved = moved || border != old;
          state_.borders[k] = border;
        }
        floor = __shfl_sync(mask_, border, kTeam - 1, kTeam);
      }
      moved = __any_sync(mask_, moved) != 0;
      Sync();
      if (!moved) break;
      SumAll();
      CenterAll();
    }
  }

  // An exchange under way at one border.
  struct Exchange {
    int border;
    int direction = 0;  // 1: values come from the right, -1: from the left, 0: none pays
    double left, right, left_sum, right_sum;
  };

  // Moves one value in that direction if it pays.
  __device__ bool Step(Exchange& e, int direction) const {
    if (direction > 0) {
      if (!(e.right > 1)) return false;
      const double x = channel_.Value(e.border);
      if (!quant::ExchangePays(x, e.right, e.right_sum, e.left, e.left_sum)) return false;
      ++e.border, ++e.left, --e.right, e.left_sum += x, e.right_sum -= x;
    } else {
      if (!(e.left > 1)) return false;
      const double x = channel_.Value(e.border - 1);
      if (!quant::ExchangePays(x, e.left, e.left_sum, e.right, e.right_sum)) return false;
      --e.border, --e.left, ++e.right, e.left_sum -= x, e.right_sum += x;
    }
    e.direction = direction;
    return true;
  }

  // The first step at border k.
  __device__ Exchange Try(int k) const {
    Exchange e;
    e.border = state_.borders[k];
    e.left = e.border - state_.borders[k - 1];
    e.right = state_.borders[k + 1] - e.border;
    e.left_sum = state_.sums[k] - state_.sums[k - 1];
    e.right_sum = state_.sums[k + 1] - state_.sums[k];
    if (!Step(e, 1)) Step(e, -1);
    return e;
  }

  __device__ void ShiftBorders(int max_passes) {
    const uint64_t all = (levels_ < 64 ? (uint64_t{1} << levels_) - 1 : ~uint64_t{0}) & ~uint64_t{1};  // 1 … levels - 1
    for (int pass = 0; pass < max_passes; ++pass) {
      bool moved = false;
      uint64_t ahead = all;  // borders this pass has not come to
      while ((unsettled_ & ahead) != 0) {
        uint64_t rest = unsettled_ & ahead;
        for (int j = 0; j < lane_; ++j) rest &= rest - 1;  // without the lanes' below
        const int k = rest != 0 ? __ffsll(static_cast<long long>(rest)) - 1 : 0;
        Exchange exchange;
        if (k > 0) exchange = Try(k);
        const bool moves = exchange.direction != 0;
        const unsigned votes = (__ballot_sync(mask_, moves) & mask_) >> (__ffs(static_cast<int>(mask_)) - 1);
        const int mover = votes != 0 ? __ffs(static_cast<int>(votes)) - 1 : kTeam - 1;
        // Everything up to the mover's border has been looked at.
        int seen = __shfl_sync(mask_, k, mover, kTeam);
        if (seen == 0) seen = 63;  // fewer borders than lanes, and none moves
        const uint64_t behind = seen == 63 ? ~uint64_t{0} : (uint64_t{1} << (seen + 1)) - 1;
        unsettled_ &= ~(behind & ahead);
        ahead &= ~behind;
        if (votes == 0) continue;
        Sync();  // the others have read what the mover is about to change
        if (lane_ == mover) {
          while (Step(exchange, exchange.direction)) {
          }
          state_.borders[k] = exchange.border;
          state_.sums[k] = channel_.Sum(exchange.border);
        }
        Sync();
        Unsettle(seen - 1);
        Unsettle(seen + 1);
        moved = true;
      }
      if (!moved) break;
    }
    CenterAll();
  }

  __device__ static double JoinCost(int begin, int middle, int end, double begin_sum, double middle_sum, double end_sum) {
    const double left = middle - begin;
    const double right = end - middle;
    if (left == 0 || right == 0) return 0;
    const double left_sum = middle_sum - begin_sum;
    const double right_sum = end_sum - middle_sum;
    const double apart = left_sum / left - right_sum / right;
    return left * right / (left + right) * apart * apart;
  }

  // The lane's `value` and what belongs to it to those of the best lane: the largest, ties to the lower k.
  __device__ void Best(double& value, int& k, int& place) const {
#pragma unroll
    for (int step = kTeam / 2; step > 0; step /= 2) {
      const double other = __shfl_xor_sync(mask_, value, step, kTeam);
      const int other_k = __shfl_xor_sync(mask_, k, step, kTeam);
      const int other_place = __shfl_xor_sync(mask_, place, step, kTeam);
      const bool better = other_k >= 0 && (k < 0 || other > value || (other == value && other_k < k));
      if (better) value = other, k = other_k, place = other_place;
    }
  }

  __device__ void SplitAndMerge() {
    for (int round = 0; round < levels_; ++round) {
      double gain = 0;
      int split = -1;
      int split_at = 0;
      for (int k = lane_; k < levels_; k += kTeam) {
        const int begin = state_.borders[k];
        const int end = state_.borders[k + 1];
        if (end - begin < 2) continue;
        const int middle =
            quant::LowerBoundNear(channel_, begin, end, (begin + end) / 2, static_cast<float>(state_.centers[k]));
        if (middle == begin || middle == end) continue;
        const double own =
            JoinCost(begin, middle, end, state_.sums[k], channel_.Sum(middle), state_.sums[k + 1]);
        if (own > gain) gain = own, split = k, split_at = middle;
      }
      Best(gain, split, split_at);
      if (split < 0) return;
      double saved = 0;  // minus the cost, so that the best is the largest
      int merge = -1;
      int unused = 0;
      for (int k = lane_; k + 1 < levels_; k += kTeam) {
        if (k == split || k + 1 == split) continue;
        const double own = -JoinCost(state_.borders[k], state_.borders[k + 1], state_.borders[k + 2], state_.sums[k],
                                     state_.sums[k + 1], state_.sums[k + 2]);
        if (merge < 0 || own > saved) saved = own, merge = k;
      }
      Best(saved, merge, unused);
      if (merge < 0 || -saved >= gain) return;

      Sync();
      if (merge < split) {
        ShiftDown(merge + 1, split);
        if (lane_ == 0) state_.borders[split] = split_at;
      } else {
        ShiftUp(split + 2, merge + 2);
        if (lane_ == 0) state_.borders[split + 1] = split_at;
      }
      Sync();
      SumAll();
      for (int k = min(merge, split); k <= max(merge, split) + 1; ++k) Unsettle(k);
      ShiftBorders(quant::kNextSteps);
    }
  }

  // borders[k] = borders[k + 1] for k in [begin, end), and borders[k] = borders[k - 1].
  __device__ void ShiftDown(int begin, int end) {
    for (int base = begin; base < end; base += kTeam) {
      const int k = base + lane_;
      const int border = k < end ? state_.borders[k + 1] : 0;
      Sync();
      if (k < end) state_.borders[k] = border;
      Sync();
    }
  }
  __device__ void ShiftUp(int begin, int end) {
    for (int base = end - 1; base >= begin; base -= kTeam) {
      const int k = base - lane_;
      const int border = k >= begin ? state_.borders[k - 1] : 0;
      Sync();
      if (k >= begin) state_.borders[k] = border;
      Sync();
    }
  }

  __device__ void Correct(double value, int k, double scale, double& dot_term, double& square_term) const {
    while (k + 1 < levels_ && value >= static_cast<double>(Threshold(k + 1))) ++k;
    while (k > 0 && value < static_cast<double>(Threshold(k))) --k;
    const auto center = static_cast<double>(state_.centroids[k]);
    const double residual = quant::HalfToFloat(quant::OutlierResidual(value, scale, center));
    const double given_back = scale * (center + residual);
    dot_term = (given_back - scale * center) * value;
    square_term = given_back * given_back - scale * center * scale * center;
  }

  const Channel channel_;
  TeamState& state_;
  int lane_;
  unsigned mask_;
  int levels_ = 0;
  quant::Centroids centroids_format_ = quant::Centroids::kInt8;
  double square_ = 0;
  uint64_t unsettled_ = 0;
  uint16_t scale_ = 0;
  double cosine_ = 1;
  double norm_ratio_ = 1;
};

}  // namespace hproc::kernels::cuda
