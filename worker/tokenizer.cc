#include "worker/tokenizer.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/file.h"
#include "base/printable.h"
#include "base/utf8.h"
#include "worker/added_tokens.h"
#include "worker/bpe.h"
#include "worker/byte_level.h"
#include "worker/normalize.h"
#include "worker/pretokenizer.h"
#include "worker/tokenizer_regex.h"

namespace hproc::worker {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr size_t kMaxCachedWords = size_t{1} << 16;
constexpr size_t kMaxCachedBytes = 64;  // longer words seldom come twice

// The ids of words met before. Cleared when full: what is common is soon back.
class WordCache {
 public:
  // Appends the ids of `word`; false: not here.
  bool Append(std::string_view word, std::vector<int32_t>& ids) const {
    const auto found = words_.find(word);
    if (found == words_.end()) return false;
    const auto [begin, count] = found->second;
    ids.insert(ids.end(), ids_.begin() + begin, ids_.begin() + begin + count);
    return true;
  }
  void Put(std::string_view word, std::span<const int32_t> ids) {
    if (words_.size() == kMaxCachedWords) {
      words_.clear();
      ids_.clear();
    }
    words_.emplace(word,
                   Range{static_cast<int32_t>(ids_.size()), static_cast<int32_t>(ids.size())});
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }

 private:
  struct Range {
    int32_t begin;
    int32_t count;
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::unordered_map<std::string, Range, Hash, std::equal_to<>> words_;
  std::vector<int32_t> ids_;
};

// What a token's text stands for: byte-level characters for bytes; a text with any other character
// for itself, which is how the library's ByteLevel decoder treats added tokens, too.
std::string BytesOf(const std::string& token) { return FromByteLevel(token).value_or(token); }

}  // namespace

struct Tokenizer::Impl {
  Impl(Bpe the_bpe, PreTokenizer the_pre_tokenizer)
      : bpe(std::move(the_bpe)), pre_tokenizer(std::move(the_pre_tokenizer)) {}

  Bpe bpe;
  PreTokenizer pre_tokenizer;
  bool nfc = false;
  AddedTokens raw_tokens;         // looked for before normalization
  AddedTokens normalized_tokens;  // and after
  std::unordered_map<std::string, int32_t> added_ids;
  std::vector<std::string> bytes;  // by id
  std::vector<bool> special;       // by id

  // Taken by one Encode at a time; another that finds it taken does with a fresh one.
  struct Scratch {
    WordCache cache;
    Bpe::Workspace workspace;
  };
  std::mutex scratch_mutex;
  Scratch scratch;

  Result<void> EncodePlain(std::string_view text, RegexRun& run, Scratch& with,
                           std::vector<int32_t>& ids) const;
};

// Text without added tokens.
Result<void> Tokenizer::Impl::EncodePlain(std::string_view text, RegexRun& run, Scratch& with,
                                          std::vector<int32_t>& ids) const {
  return pre_tokenizer.Split(text, run, [&](std::string_view word) -> Result<void> {
    if (word.size() > kMaxCachedBytes) {
      bpe.Encode(word, with.workspace, ids);
      return Ok();
    }
    if (with.cache.Append(word, ids)) return Ok();
    const size_t before = ids.size();
    bpe.Encode(word, with.workspace, ids);
    with.cache.Put(word, std::span(ids).subspan(before));
    return Ok();
  });
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::FromFile(const std::filesystem::path& path) {
  const Result<std::string> json = ReadFile(path, kMaxTokenizerBytes);
  if (!json.ok()) return json.error();
  return FromJson(*json, path.string());
}

Result<Tokenizer> Tokenizer::FromJson(std::string_view json, std::string_view label) {
  Result<TokenizerSpec> spec = ParseTokenizerJson(json);
  Result<Tokenizer> tokenizer = spec.ok() ? FromSpec(*spec) : spec.error();
  if (!tokenizer.ok()) return Error{std::string(label) + ": " + tokenizer.error().message};
  return tokenizer;
}

Result<Tokenizer> Tokenizer::FromSpec(const TokenizerSpec& spec) {
  Result<Bpe> bpe = Bpe::Create(spec);
  if (!bpe.ok()) return bpe.error();
  Result<PreTokenizer> pre_tokenizer = PreTokenizer::Create(spec.pre_tokenizer);
  if (!pre_tokenizer.ok()) return pre_tokenizer.error();
  auto impl = std::make_unique<Impl>(std::move(*bpe), std::move(*pre_tokenizer));
  impl->nfc = spec.nfc;

  int32_t highest = 0;
  for (const auto& [token, id] : spec.vocab) highest = std::max(highest, id);
  for (const AddedTokenSpec& token : spec.added_tokens) highest = std::max(highest, token.id);
  impl->bytes.resize(static_cast<size_t>(highest) + 1);
  impl->special.resize(impl->bytes.size());
  for (const auto& [token, id] : spec.vocab) impl->bytes[static_cast<size_t>(id)] = BytesOf(token);
  for (const AddedTokenSpec& token : spec.added_tokens) {
    const std::string shown = "added token '" + Printable(token.content) + "'";
    if (const int32_t id = impl->bpe.Find(token.content); id >= 0 && id != token.id) {
      return Error{shown + " has id " + std::to_string(token.id) + ", but the vocabulary says " +
                   std::to_string(id)};
    }
    const bool is_normalized = token.normalized && spec.nfc;
    AddedTokens& tokens = token.normalized ? impl->normalized_tokens : impl->raw_tokens;
    if (!tokens.Add(is_normalized ? NormalizeNfc(token.content) : token.content, token)) {
      return Error{shown + " is the same as another when normalized"};
    }
    impl->added_ids.emplace(token.content, token.id);
    impl->bytes[static_cast<size_t>(token.id)] = BytesOf(token.content);
    impl->special[static_cast<size_t>(token.id)] = token.special;
  }
  return Tokenizer(std::move(impl));
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text) const {
  if (text.size() > kMaxTextBytes) {
    return Error{"a text of " + std::to_string(text.size()) + " bytes is more than the " +
                 std::to_string(kMaxTextBytes) + " that can be tokenized at once"};
  }
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = ReplaceInvalidUtf8(text);
    text = repaired;
  }
  const std::unique_lock<std::mutex> lock(impl_->scratch_mutex, std::try_to_lock);
  std::optional<Impl::Scratch> own;
  Impl::Scratch& with = lock ? impl_->scratch : own.emplace();

  RegexRun run(text.size());
  std::vector<int32_t> ids;
  const auto put = [&](int32_t id) {
    ids.push_back(id);
    return Ok();
  };
  const Result<void> encoded =
      impl_->raw_tokens.Split(text, [&](int32_t raw_id, std::string_view raw) -> Result<void> {
        if (raw_id != AddedTokens::kText) return put(raw_id);
        std::string normalized;
        if (impl_->nfc) {
          normalized = NormalizeNfc(raw);
          raw = normalized;
        }
        return impl_->normalized_tokens.Split(
            raw, [&](int32_t id, std::string_view part) -> Result<void> {
              return id != AddedTokens::kText ? put(id) : impl_->EncodePlain(part, run, with, ids);
            });
      });
  if (!encoded.ok()) return encoded.error();
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!skip_special || !IsSpecial(id)) bytes += TokenBytes(id);
  }
  return IsValidUtf8(bytes) ? bytes : ReplaceInvalidUtf8(bytes);
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  return id >= 0 && id < vocab_size() ? std::string_view(impl_->bytes[static_cast<size_t>(id)])
                                      : std::string_view();
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->special[static_cast<size_t>(id)];
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view token) const {
  if (const auto added = impl_->added_ids.find(std::string(token));
      added != impl_->added_ids.end()) {
    return added->second;
  }
  const int32_t id = impl_->bpe.Find(token);
  return id >= 0 ? std::optional(id) : std::nullopt;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->bytes.size()); }

std::string StreamDecoder::Push(int32_t id) {
  if (skip_special_ && tokenizer_.IsSpecial(id)) return {};
  pending_ += tokenizer_.TokenBytes(id);
  std::string ready = std::exchange(pending_, {});
  const size_t tail = IncompleteUtf8Tail(ready);
  pending_ = ready.substr(ready.size() - tail);
  ready.resize(ready.size() - tail);
  return IsValidUtf8(ready) ? ready : ReplaceInvalidUtf8(ready);
}

std::string StreamDecoder::Flush() { return ReplaceInvalidUtf8(std::exchange(pending_, {})); }

}  // namespace hproc::worker
