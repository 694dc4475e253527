// The file form of a rate table: little-endian records, closed by the SHA-256 of all before it.
//
//   "HPROCRT3"  fingerprint  tensor count  { tensor  candidate count  { candidate  step count  { step } } }  sha256 (hex)
//
// The digit is the version of the fits as much as of the form: it goes up whenever the quantizer gives other bytes for the same
// tensor, since a plan made from a table promises the bytes of the load.
//
// A table of the largest models has some ten million steps, which is why this is not JSON.
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/sha256.h"
#include "quant/rate_table.h"

namespace hproc::quant {
namespace {

constexpr std::string_view kMagic = "HPROCRT3";
constexpr size_t kDigestBytes = 64;
static_assert(std::endian::native == std::endian::little, "the file is little-endian, as all supported hosts are");

class Writer {
 public:
  template <typename T>
    requires std::is_arithmetic_v<T>
  void Put(T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out_.append(bytes, sizeof(T));
  }
  void Put(std::string_view text) {
    Put(static_cast<uint32_t>(text.size()));
    out_.append(text);
  }
  std::string& out() { return out_; }

 private:
  std::string out_;
};

// Reads past the end yield zeros and set `broken`.
class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}

  template <typename T>
    requires std::is_arithmetic_v<T>
  T Get() {
    T value{};
    if (in_.size() < sizeof(T)) {
      broken_ = true;
      return value;
    }
    std::memcpy(&value, in_.data(), sizeof(T));
    in_.remove_prefix(sizeof(T));
    return value;
  }
  std::string GetText() {
    const auto size = Get<uint32_t>();
    if (in_.size() < size) {
      broken_ = true;
      return {};
    }
    std::string text(in_.substr(0, size));
    in_.remove_prefix(size);
    return text;
  }
  // A count of things of at least `bytes_each`; 0 and broken when they cannot all be there.
  uint32_t GetCount(size_t bytes_each) {
    const auto count = Get<uint32_t>();
    if (count > in_.size() / bytes_each) {
      broken_ = true;
      return 0;
    }
    return count;
  }
  bool broken() const { return broken_; }
  bool at_end() const { return in_.empty(); }

 private:
  std::string_view in_;
  bool broken_ = false;
};

constexpr size_t kStepBytes = 2 + 8 + 4 + 8;
constexpr size_t kCandidateBytes = 1 + 1 + 1 + 1 + 4 + 4;
constexpr size_t kTensorBytes = 4 + 1 + 8 + 8 + 1 + 8 + 4;

bool Plausible(const TensorSpec& spec) {
  constexpr int64_t kMost = int64_t{1} << 48;
  return spec.rows > 0 && spec.columns > 0 && spec.rows < kMost && spec.columns < kMost / spec.rows &&
         (spec.bytes_per_value == 2 || spec.bytes_per_value == 4) && spec.experts >= 0 &&
         (spec.experts == 0 || spec.rows % spec.experts == 0);
}

bool Plausible(const Candidate& candidate, const TensorSpec& spec) {
  if (!IsLevelCount(candidate.format.levels) || candidate.highest < 0 || candidate.highest >= kLadderSize) return false;
  if (candidate.format.mode == Mode::kV2 && candidate.format.group_scales) return false;  // V2 has one scale a channel
  if (candidate.steps.empty() || candidate.steps.front().ladder_index != 0) return false;
  for (size_t i = 0; i < candidate.steps.size(); ++i) {
    const RateStep& step = candidate.steps[i];
    if (step.outliers < 0 || step.outliers > spec.weights() || step.ladder_index > candidate.highest) return false;
    if (i > 0 && (step.ladder_index <= candidate.steps[i - 1].ladder_index ||
                  step.outliers < candidate.steps[i - 1].outliers)) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::string EncodeRateTable(const RateTable& table) {
  Writer writer;
  writer.out().append(kMagic);
  writer.Put(table.fingerprint);
  writer.Put(static_cast<uint32_t>(table.tensors.size()));
  for (const TensorRates& tensor : table.tensors) {
    writer.Put(tensor.spec.name);
    writer.Put(static_cast<uint8_t>(tensor.spec.family));
    writer.Put(tensor.spec.rows);
    writer.Put(tensor.spec.columns);
    writer.Put(static_cast<uint8_t>(tensor.spec.bytes_per_value));
    writer.Put(tensor.spec.experts);
    writer.Put(static_cast<uint32_t>(tensor.candidates.size()));
    for (const Candidate& candidate : tensor.candidates) {
      writer.Put(static_cast<uint8_t>(candidate.format.mode));
      writer.Put(static_cast<uint8_t>(candidate.format.levels));
      writer.Put(static_cast<uint8_t>(candidate.format.centroids));
      writer.Put(static_cast<uint8_t>(candidate.format.group_scales));
      writer.Put(static_cast<int32_t>(candidate.highest));
      writer.Put(static_cast<uint32_t>(candidate.steps.size()));
      for (const RateStep& step : candidate.steps) {
        writer.Put(static_cast<int16_t>(step.ladder_index));
        writer.Put(step.outliers);
        writer.Put(step.min_cosine);
        writer.Put(step.mean_deficit);
      }
    }
  }
  writer.out() += Sha256Hex(writer.out());
  return std::move(writer.out());
}

Result<RateTable> DecodeRateTable(std::string_view bytes) {
  const Error broken{"not a rate table, or a damaged one"};
  if (bytes.size() < kMagic.size() + kDigestBytes || !bytes.starts_with(kMagic)) return broken;
  const std::string_view body = bytes.substr(0, bytes.size() - kDigestBytes);
  if (Sha256Hex(body) != bytes.substr(body.size())) return broken;
  Reader reader(body.substr(kMagic.size()));
  RateTable table;
  table.fingerprint = reader.GetText();
  const uint32_t tensors = reader.GetCount(kTensorBytes);
  for (uint32_t t = 0; t < tensors && !reader.broken(); ++t) {
    TensorRates& tensor = table.tensors.emplace_back();
    tensor.spec.name = reader.GetText();
    const auto family = reader.Get<uint8_t>();
    if (family >= kFamilyCount) return broken;
    tensor.spec.family = static_cast<Family>(family);
    tensor.spec.rows = reader.Get<int64_t>();
    tensor.spec.columns = reader.Get<int64_t>();
    tensor.spec.bytes_per_value = reader.Get<uint8_t>();
    tensor.spec.experts = reader.Get<int64_t>();
    if (!Plausible(tensor.spec)) return broken;
    const uint32_t candidates = reader.GetCount(kCandidateBytes);
    for (uint32_t c = 0; c < candidates && !reader.broken(); ++c) {
      Candidate& candidate = tensor.candidates.emplace_back();
      candidate.format.mode = reader.Get<uint8_t>() == 0 ? Mode::kV2 : Mode::kV2a;
      candidate.format.levels = reader.Get<uint8_t>();
      candidate.format.centroids = reader.Get<uint8_t>() == 0 ? Centroids::kInt8 : Centroids::kHalf;
      candidate.format.group_scales = reader.Get<uint8_t>() != 0;
      candidate.highest = reader.Get<int32_t>();
      const uint32_t steps = reader.GetCount(kStepBytes);
      candidate.steps.reserve(steps);
      for (uint32_t s = 0; s < steps; ++s) {
        RateStep& step = candidate.steps.emplace_back();
        step.ladder_index = reader.Get<int16_t>();
        step.outliers = reader.Get<int64_t>();
        step.min_cosine = reader.Get<float>();
        step.mean_deficit = reader.Get<double>();
      }
      if (!Plausible(candidate, tensor.spec)) return broken;
    }
  }
  if (reader.broken() || !reader.at_end()) return broken;
  return table;
}

}  // namespace hproc::quant
