#include "worker/tokenizer_file.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/printable.h"
#include "worker/json_events.h"

namespace hproc::worker {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxEntries = size_t{1} << 22;  // of the vocabulary, of the merges
constexpr size_t kMaxSmallValues = size_t{1} << 20;
constexpr size_t kMaxSteps = 64;

std::string Quote(std::string_view text) { return "'" + Printable(text) + "'"; }

// In the functions below `where` names the place in messages.

// The member, or null where there is none.
const Json& Member(const Json& object, const char* name) {
  static const Json null;
  const auto found = object.find(name);
  return found == object.end() ? null : *found;
}

Result<bool> Flag(const Json& object, const char* name, const std::string& where) {
  const Json& value = Member(object, name);
  if (!value.is_boolean()) return Error{where + ": " + name + " is not true or false"};
  return value.get<bool>();
}

// Empty where it is not a string.
std::string TextOf(const Json& value) {
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::string TypeOf(const Json& component) { return TextOf(Member(component, "type")); }

Error Unsupported(const std::string& where, const std::string& what) {
  return Error{where + " " + Quote(what) + " is not supported"};
}

// Files from before types were written have none.
Result<void> CheckModelType(const Json& model) {
  const std::string type = TypeOf(model);
  return model.contains("type") && type != "BPE" ? Unsupported("model", type) : Ok();
}

// Takes the vocabulary and the merges, which are nearly all of the file, straight into the spec,
// and the rest into a document to be looked at when all is read.
class FileHandler final : public JsonHandler {
 public:
  explicit FileHandler(TokenizerSpec& spec) : spec_(spec) {}

  Result<void> OnScalar(const JsonScalar& scalar) override {
    if (in_vocab_) return OnVocab(scalar);
    if (in_merges_) return OnMerge(scalar);
    Json value;
    switch (scalar.kind) {
      case JsonScalar::Kind::kNull:
        break;
      case JsonScalar::Kind::kBool:
        value = scalar.boolean;
        break;
      case JsonScalar::Kind::kUnsigned:
        value = scalar.number;
        break;
      case JsonScalar::Kind::kOtherNumber:
        value = scalar.other;
        break;
      case JsonScalar::Kind::kString:
        value = std::move(*scalar.text);
        break;
    }
    return Put(std::move(value), nullptr);
  }

  Result<void> OnKey(std::string& key) override {
    key_ = std::move(key);
    if (!in_vocab_ && open_.back()->contains(key_)) return Error{Quote(key_) + " appears twice"};
    return Ok();
  }

  Result<void> OnBegin(bool is_object) override {
    if (in_vocab_) return Error{"vocab: the id of token " + Quote(key_) + " is not a number"};
    if (in_merges_) {
      if (is_object || in_pair_) return BadMerge();
      in_pair_ = true;
      pair_.clear();
      return Ok();
    }
    if (open_.empty() && !is_object) return Error{"not a JSON object"};
    const bool in_model = open_.size() == 2 && path_.back() == "model" && open_.back()->is_object();
    Json* placed = nullptr;
    if (in_model && (key_ == "vocab" || key_ == "merges")) {
      if (Result<void> type = CheckModelType(*open_.back()); !type.ok()) return type;
      if (is_object != (key_ == "vocab")) {
        return Error{"model." + key_ + " is not " + (is_object ? "an array" : "an object")};
      }
      (is_object ? in_vocab_ : in_merges_) = true;
      has_merges |= !is_object;
      return Put(true, nullptr);  // so that a second one is noticed
    }
    const std::string key = key_;
    if (Result<void> put = Put(is_object ? Json::object() : Json::array(), &placed); !put.ok()) {
      return put;
    }
    open_.push_back(placed);
    path_.push_back(key);
    return Ok();
  }

  Result<void> OnEnd() override {
    if (in_vocab_) {
      in_vocab_ = false;
    } else if (in_pair_) {
      in_pair_ = false;
      if (pair_.size() != 2) return BadMerge();
      spec_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
    } else if (in_merges_) {
      in_merges_ = false;
    } else {
      open_.pop_back();
      path_.pop_back();
    }
    return Ok();
  }

  Json document;
  bool has_merges = false;

 private:
  Error BadMerge() const {
    return Error{"merge " + std::to_string(spec_.merges.size()) +
                 R"(: neither "a b" nor ["a", "b"])"};
  }

  Result<void> OnVocab(const JsonScalar& scalar) {
    if (scalar.kind != JsonScalar::Kind::kUnsigned || scalar.number > kMaxTokenId) {
      return Error{"vocab: the id of token " + Quote(key_) + " is not an integer from 0 to " +
                   std::to_string(kMaxTokenId)};
    }
    if (spec_.vocab.size() == kMaxEntries) {
      return Error{"vocab: more than " + std::to_string(kMaxEntries) + " tokens"};
    }
    spec_.vocab.emplace_back(std::move(key_), static_cast<int32_t>(scalar.number));
    return Ok();
  }

  Result<void> OnMerge(const JsonScalar& scalar) {
    if (scalar.kind != JsonScalar::Kind::kString) return BadMerge();
    if (spec_.merges.size() == kMaxEntries) {
      return Error{"more than " + std::to_string(kMaxEntries) + " merges"};
    }
    if (in_pair_) {
      if (pair_.size() == 2) return BadMerge();
      pair_.push_back(std::move(*scalar.text));
      return Ok();
    }
    const std::string& text = *scalar.text;
    if (text.starts_with("#version")) {
      return Ok();  // a line of the older file that some converters copied along
    }
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return BadMerge();
    }
    spec_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    return Ok();
  }

  Result<void> Put(Json value, Json** placed) {
    if (++small_values_ > kMaxSmallValues) {
      return Error{"more than a tokenizer can need beside vocab and merges"};
    }
    Json* at = &document;
    if (open_.empty()) {
      if (!value.is_object()) return Error{"not a JSON object"};
      document = std::move(value);
    } else if (open_.back()->is_object()) {
      at = &((*open_.back())[key_] = std::move(value));
    } else {
      open_.back()->push_back(std::move(value));
      at = &open_.back()->back();
    }
    if (placed != nullptr) *placed = at;
    return Ok();
  }

  TokenizerSpec& spec_;
  // The open objects and arrays of `document`, outermost first, and the keys that lead to them. An
  // open one is always the last child of its parent, so that the pointers hold.
  std::vector<Json*> open_;
  std::vector<std::string> path_;
  std::string key_;
  bool in_vocab_ = false;
  bool in_merges_ = false;
  bool in_pair_ = false;
  std::vector<std::string> pair_;
  size_t small_values_ = 0;
};

Result<AddedTokenSpec> ReadAddedToken(const Json& entry, size_t index) {
  std::string where = "added token " + std::to_string(index);
  if (!entry.is_object()) return Error{where + ": not an object"};
  AddedTokenSpec token;
  const Json& content = Member(entry, "content");
  if (!content.is_string()) return Error{where + ": content is not a string"};
  token.content = content.get<std::string>();
  where += " " + Quote(token.content);
  if (token.content.empty()) return Error{where + ": empty"};
  if (token.content.size() > kMaxAddedTokenBytes) {
    return Error{where + ": longer than " + std::to_string(kMaxAddedTokenBytes) + " bytes"};
  }
  const Json& id = Member(entry, "id");
  if (!id.is_number_unsigned() || id.get<uint64_t>() > kMaxTokenId) {
    return Error{where + ": id is not an integer from 0 to " + std::to_string(kMaxTokenId)};
  }
  token.id = id.get<int32_t>();
  struct NamedFlag {
    const char* name;
    bool* value;
  };
  for (const NamedFlag& flag :
       {NamedFlag{"single_word", &token.single_word}, NamedFlag{"lstrip", &token.lstrip},
        NamedFlag{"rstrip", &token.rstrip}, NamedFlag{"normalized", &token.normalized},
        NamedFlag{"special", &token.special}}) {
    const Result<bool> value = Flag(entry, flag.name, where);
    if (!value.ok()) return value.error();
    *flag.value = *value;
  }
  return token;
}

Result<void> ReadAddedTokens(const Json& list, TokenizerSpec& spec) {
  if (list.is_null()) return Ok();
  if (!list.is_array()) return Error{"added_tokens is not an array"};
  std::unordered_set<std::string> contents;
  for (const Json& entry : list) {
    Result<AddedTokenSpec> token = ReadAddedToken(entry, spec.added_tokens.size());
    if (!token.ok()) return token.error();
    if (!contents.insert(token->content).second) {
      return Error{"added token " + Quote(token->content) + " appears twice"};
    }
    spec.added_tokens.push_back(std::move(*token));
  }
  return Ok();
}

Result<void> ReadNormalizer(const Json& normalizer, TokenizerSpec& spec) {
  if (normalizer.is_null()) return Ok();
  const std::string type = TypeOf(normalizer);
  if (type == "NFC") {
    spec.nfc = true;
    return Ok();
  }
  if (type != "Sequence") return Unsupported("normalizer", type);
  const Json& parts = Member(normalizer, "normalizers");
  if (!parts.is_array()) return Error{"normalizer: normalizers is not an array"};
  for (const Json& part : parts) {
    if (Result<void> read = ReadNormalizer(part, spec); !read.ok()) return read;
  }
  return Ok();
}

Result<PreTokenizerStep> ReadSplit(const Json& split) {
  PreTokenizerStep step;
  const Json& pattern = Member(split, "pattern");
  if (!pattern.is_object()) return Error{"pre-tokenizer Split: pattern is not an object"};
  const Json& regex = Member(pattern, "Regex");
  const Json& literal = Member(pattern, "String");
  if (regex.is_string() == literal.is_string()) {
    return Error{"pre-tokenizer Split: pattern is neither a Regex nor a String"};
  }
  step.is_literal = literal.is_string();
  step.pattern = (step.is_literal ? literal : regex).get<std::string>();
  if (step.pattern.empty()) return Error{"pre-tokenizer Split: pattern is empty"};
  const Result<bool> invert = Flag(split, "invert", "pre-tokenizer Split");
  if (!invert.ok()) return invert.error();
  const Json& behavior = Member(split, "behavior");
  if (behavior == "Isolated") return step;
  if (behavior != "Removed") return Unsupported("pre-tokenizer Split: behavior", TextOf(behavior));
  step.keep_matches = *invert;
  step.keep_between = !*invert;
  return step;
}

Result<PreTokenizerStep> ReadByteLevel(const Json& byte_level) {
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::kByteLevel;
  const Result<bool> prefix = Flag(byte_level, "add_prefix_space", "pre-tokenizer ByteLevel");
  if (!prefix.ok()) return prefix.error();
  step.add_prefix_space = *prefix;
  step.use_regex = true;  // older files do not say
  if (byte_level.contains("use_regex")) {
    const Result<bool> use_regex = Flag(byte_level, "use_regex", "pre-tokenizer ByteLevel");
    if (!use_regex.ok()) return use_regex.error();
    step.use_regex = *use_regex;
  }
  return step;
}

Result<void> ReadPreTokenizer(const Json& pre_tokenizer, TokenizerSpec& spec) {
  std::vector<PreTokenizerStep>& steps = spec.pre_tokenizer;
  const std::string type = TypeOf(pre_tokenizer);
  if (type == "Sequence") {
    const Json& parts = Member(pre_tokenizer, "pretokenizers");
    if (!parts.is_array()) return Error{"pre-tokenizer: pretokenizers is not an array"};
    for (const Json& part : parts) {
      if (Result<void> read = ReadPreTokenizer(part, spec); !read.ok()) return read;
    }
    return Ok();
  }
  if (type != "Split" && type != "ByteLevel") {
    return Unsupported("pre-tokenizer", pre_tokenizer.is_null() ? "null" : type);
  }
  if (steps.size() == kMaxSteps) {
    return Error{"more than " + std::to_string(kMaxSteps) + " pre-tokenizers"};
  }
  if (!steps.empty() && steps.back().kind == PreTokenizerStep::Kind::kByteLevel) {
    return Unsupported("behind ByteLevel, a pre-tokenizer", type);
  }
  Result<PreTokenizerStep> step =
      type == "Split" ? ReadSplit(pre_tokenizer) : ReadByteLevel(pre_tokenizer);
  if (!step.ok()) return step.error();
  steps.push_back(std::move(*step));
  return Ok();
}

Result<void> ReadModel(const Json& model, bool has_merges, TokenizerSpec& spec) {
  if (!model.is_object()) return Error{"no model"};
  if (Result<void> type = CheckModelType(model); !type.ok()) return type;
  if (spec.vocab.empty()) return Error{"model: no vocab"};
  if (!has_merges) return Error{"model: no merges"};
  for (const char* name : {"byte_fallback", "fuse_unk", "ignore_merges"}) {
    if (const Json& flag = Member(model, name); !flag.is_null() && !flag.is_boolean()) {
      return Error{std::string("model: ") + name + " is not true or false"};
    }
  }
  if (Member(model, "byte_fallback") == true) return Error{"model: byte_fallback is not supported"};
  if (const Json& dropout = Member(model, "dropout"); !dropout.is_null() && dropout != 0) {
    return Error{"model: dropout is not supported"};
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const Json& affix = Member(model, name); !affix.is_null() && affix != "") {
      return Error{std::string("model: ") + name + " is not supported"};
    }
  }
  spec.ignore_merges = Member(model, "ignore_merges") == true;
  return Ok();
}

Result<void> CheckIdsDiffer(const TokenizerSpec& spec) {
  std::vector<std::pair<int32_t, std::string_view>> ids;
  ids.reserve(spec.vocab.size() + spec.added_tokens.size());
  for (const auto& [token, id] : spec.vocab) ids.emplace_back(id, token);
  for (const AddedTokenSpec& token : spec.added_tokens) ids.emplace_back(token.id, token.content);
  std::sort(ids.begin(), ids.end());
  // An added token may be in the vocabulary, too: one token, listed twice.
  for (size_t i = 1; i < ids.size(); ++i) {
    if (ids[i].first == ids[i - 1].first && ids[i].second != ids[i - 1].second) {
      return Error{"id " + std::to_string(ids[i].first) + " belongs to both " +
                   Quote(ids[i - 1].second) + " and " + Quote(ids[i].second)};
    }
  }
  return Ok();
}

}  // namespace

Result<TokenizerSpec> ParseTokenizerJson(std::string_view json) {
  TokenizerSpec spec;
  FileHandler handler(spec);
  if (Result<void> read = ParseJson(json, JsonLimits{}, handler); !read.ok()) return read.error();
  const Json& document = handler.document;
  if (const Json& version = Member(document, "version"); !version.is_null() && version != "1.0") {
    return Unsupported("version", TextOf(version));
  }
  if (Result<void> read = ReadModel(Member(document, "model"), handler.has_merges, spec);
      !read.ok()) {
    return read.error();
  }
  if (Result<void> read = ReadAddedTokens(Member(document, "added_tokens"), spec); !read.ok()) {
    return read.error();
  }
  if (Result<void> read = ReadNormalizer(Member(document, "normalizer"), spec); !read.ok()) {
    return read.error();
  }
  if (Result<void> read = ReadPreTokenizer(Member(document, "pre_tokenizer"), spec); !read.ok()) {
    return read.error();
  }
  if (spec.pre_tokenizer.empty() ||
      spec.pre_tokenizer.back().kind != PreTokenizerStep::Kind::kByteLevel) {
    return Error{"pre-tokenizer: no ByteLevel, and only byte-level vocabularies are supported"};
  }
  if (const Json& decoder = Member(document, "decoder"); TypeOf(decoder) != "ByteLevel") {
    return Unsupported("decoder", decoder.is_null() ? "null" : TypeOf(decoder));
  }
  if (Result<void> ids = CheckIdsDiffer(spec); !ids.ok()) return ids.error();
  return spec;
}

}  // namespace hproc::worker
