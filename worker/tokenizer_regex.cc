#include "worker/tokenizer_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>

#include "base/check.h"
#include "base/printable.h"

namespace hproc::worker {
namespace {

constexpr size_t kMaxPatternBytes = 65536;
constexpr uint32_t kMaxNesting = 100;
// Limits of the work. PCRE2 counts steps for one place of the text at a time, so that patterns
// which are slow at many places need another bound: the search is cut into stretches of the text,
// and the time is looked at between them. A run of a million blanks takes some two million steps.
constexpr uint64_t kMinSteps = 1u << 18;
constexpr uint64_t kStepsPerByte = 4;
constexpr size_t kStretchBytes = 128;
constexpr std::chrono::nanoseconds kMinTime = std::chrono::seconds(1);
constexpr std::chrono::nanoseconds kTimePerByte = std::chrono::microseconds(10);
constexpr uint32_t kHeapLimitKib = 1u << 20;  // of the interpreter: 1 GiB, for runs of megabytes

struct Freer {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
template <typename T>
using Owned = std::unique_ptr<T, Freer>;

PCRE2_SPTR Units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string Pcre2Message(int code) {
  PCRE2_UCHAR message[256] = {};
  pcre2_get_error_message(code, message, sizeof message);
  return reinterpret_cast<const char*>(message);
}

std::chrono::nanoseconds ThreadCpuTime() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

}  // namespace

struct RegexRun::State {
  Owned<pcre2_match_data> data;
  Owned<pcre2_match_context> context;
  std::chrono::nanoseconds allowed{};
  std::chrono::steady_clock::time_point wall_begin;
  std::chrono::nanoseconds cpu_begin{};

  // The wall clock is cheap to read and never behind, so that it alone is asked for as long as all
  // is well; a busy machine is no reason to give up.
  bool OutOfTime() const {
    return std::chrono::steady_clock::now() - wall_begin > allowed &&
           ThreadCpuTime() - cpu_begin > allowed;
  }
};

RegexRun::RegexRun(size_t text_bytes) : state_(std::make_unique<State>()) {
  state_->data.reset(pcre2_match_data_create(1, nullptr));
  state_->context.reset(pcre2_match_context_create(nullptr));
  HPROC_CHECK(state_->data != nullptr && state_->context != nullptr, "out of memory");
  pcre2_set_heap_limit(state_->context.get(), kHeapLimitKib);
  state_->allowed = kMinTime + kTimePerByte * text_bytes;
  state_->wall_begin = std::chrono::steady_clock::now();
  state_->cpu_begin = ThreadCpuTime();
}
RegexRun::~RegexRun() = default;

struct Regex::Code {
  Owned<pcre2_code> code;
  std::string shown;  // for messages
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::FromOniguruma(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return Error{"regular expression of " + std::to_string(pattern.size()) +
                 " bytes, more than the " + std::to_string(kMaxPatternBytes) + " allowed"};
  }
  const Result<std::string> translated = TranslateOnigurumaPattern(pattern);
  if (!translated.ok()) return translated.error();
  auto code = std::make_unique<Code>();
  code->shown = Printable(pattern);
  const Owned<pcre2_compile_context> context(pcre2_compile_context_create(nullptr));
  HPROC_CHECK(context != nullptr, "out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);  // what a dot leaves out
  pcre2_set_parens_nest_limit(context.get(), kMaxNesting);
  int failure = 0;
  PCRE2_SIZE place = 0;
  code->code.reset(
      pcre2_compile(Units(*translated), translated->size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT,
                    &failure, &place, context.get()));
  if (code->code == nullptr) {
    return Error{"regular expression '" + code->shown + "': " + Pcre2Message(failure)};
  }
  // Where there is no just-in-time compiler, pcre2_match interprets.
  pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::move(code));
}

// pcre2_match for matches that begin in the stretch from `at` on.
int Regex::Match(std::string_view text, size_t at, RegexRun& run) const {
  pcre2_match_context* context = run.state_->context.get();
  pcre2_match_data* data = run.state_->data.get();
  const uint64_t steps = kMinSteps + kStepsPerByte * text.size();
  pcre2_set_match_limit(context, static_cast<uint32_t>(std::min<uint64_t>(steps, UINT32_MAX)));
  pcre2_set_offset_limit(context, at + kStretchBytes - 1);
  const int matched = pcre2_match(code_->code.get(), Units(text), text.size(), at,
                                  PCRE2_NO_UTF_CHECK, data, context);
  if (matched != PCRE2_ERROR_JIT_STACKLIMIT) return matched;
  // The just-in-time code has 32 KiB to backtrack in; the interpreter has the heap.
  return pcre2_match(code_->code.get(), Units(text), text.size(), at,
                     PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
}

Result<void> Regex::FindAll(std::string_view text, RegexRun& run,
                            FunctionRef<Result<void>(size_t, size_t)> found) const {
  const auto failure = [&](const std::string& what) {
    return Error{"regular expression '" + code_->shown + "' on a text of " +
                 std::to_string(text.size()) + " bytes: " + what};
  };
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(run.state_->data.get());
  size_t last_end = std::string_view::npos;
  for (size_t at = 0; at <= text.size();) {
    if (run.state_->OutOfTime()) return failure("takes too long");
    const int matched = Match(text, at, run);
    if (matched == PCRE2_ERROR_NOMATCH) {
      at += kStretchBytes;
      while (at < text.size() && IsContinuation(text[at])) ++at;
      continue;
    }
    if (matched < 0) return failure(Pcre2Message(matched));
    const size_t begin = range[0];
    const size_t end = range[1];
    if (begin == end && end == last_end) {
      ++at;
      while (at < text.size() && IsContinuation(text[at])) ++at;
      continue;
    }
    at = last_end = end;
    if (Result<void> result = found(begin, end); !result.ok()) return result;
  }
  return Ok();
}

}  // namespace hproc::worker
