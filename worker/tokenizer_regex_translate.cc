// TranslateOnigurumaPattern. The differences were found by comparing the two engines on every code
// point.
#include <array>
#include <cctype>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/printable.h"
#include "worker/tokenizer_regex.h"

namespace hproc::worker {
namespace {

// Contents of character classes.
constexpr std::string_view kSpace =
    R"(\x{09}-\x{0d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f})"
    R"(\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x{00}-\x{08}\x{0e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff})"
    R"(\x{3001}-\x{d7ff}\x{e000}-\x{10ffff})";
// The superscripts and fractions of Latin-1 are numbers of another kind than Nd; Oniguruma has them
// all the same.
constexpr std::string_view kWord =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

// Names of one meaning in both engines; any other name is taken for a script.
constexpr std::array<std::string_view, 39> kCommonProperties = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd",  "Nl",
    "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc",  "Sk",
    "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cs", "Co", "Cn", "Any", "Alphabetic"};

bool IsCommonProperty(std::string_view name) {
  for (const std::string_view property : kCommonProperties) {
    if (property == name) return true;
  }
  return false;
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}
  Result<std::string> Run();

 private:
  struct Group {
    size_t begin;   // in out_
    bool caseless;  // what held outside
  };
  // One escape: either a set (`items` are the contents of a class) or one character.
  struct Escape {
    std::string items;
    std::string negated_items;  // where the set is a negation that a class cannot hold
    bool is_set = false;
  };

  bool More() const { return at_ < in_.size(); }
  bool Next(std::string_view text) {
    if (!in_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  Error Unsupported(std::string_view what) const {
    return Error{"regular expression '" + Printable(in_) + "': " + std::string(what) +
                 " is not supported"};
  }
  std::optional<size_t> DecimalDigits();
  std::optional<std::string> HexDigits(size_t count);

  Result<Escape> ReadEscape(bool in_class);
  Result<std::string> ReadProperty(bool negated);
  Result<void> Class();
  Result<void> Open();
  Result<void> Close();
  bool Interval();
  // Appends what can be repeated.
  void Atom(std::string_view text) {
    atom_ = out_.size();
    out_ += text;
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = 0;  // where in out_ the last atom begins, which a quantifier applies to
  bool caseless_ = false;
  std::vector<Group> groups_;
};

Result<std::string> Translator::Run() {
  while (More()) {
    const char c = in_[at_];
    if (c == '\\') {
      const Result<Escape> escape = ReadEscape(false);
      if (!escape.ok()) return escape.error();
      if (!escape->is_set) {
        Atom(escape->items);
      } else if (!escape->negated_items.empty()) {
        Atom("[^" + escape->negated_items + "]");
      } else {
        Atom("[" + escape->items + "]");
      }
      continue;
    }
    if (c == '[') {
      if (Result<void> done = Class(); !done.ok()) return done.error();
      continue;
    }
    if (c == '(') {
      if (Result<void> done = Open(); !done.ok()) return done.error();
      continue;
    }
    if (c == ')') {
      if (Result<void> done = Close(); !done.ok()) return done.error();
      continue;
    }
    if (c == '{') {
      if (!Interval()) {
        Atom("\\{");  // not an interval: itself
        ++at_;
      }
      continue;
    }
    if (c == '^' || c == '$') return Unsupported("the anchor " + std::string(1, c));
    if (c == '*' || c == '+' || c == '?' || c == '|') {
      out_ += c;
      ++at_;
      continue;
    }
    // A whole character: a quantifier behind it applies to all of its bytes.
    size_t bytes = 1;
    while (at_ + bytes < in_.size() &&
           (static_cast<unsigned char>(in_[at_ + bytes]) & 0xC0) == 0x80) {
      ++bytes;
    }
    Atom(in_.substr(at_, bytes));
    at_ += bytes;
  }
  if (!groups_.empty()) return Unsupported("an unclosed group");
  return std::move(out_);
}

std::optional<size_t> Translator::DecimalDigits() {
  size_t value = 0;
  const size_t begin = at_;
  while (More() && std::isdigit(static_cast<unsigned char>(in_[at_])) != 0 && at_ - begin < 6) {
    value = value * 10 + static_cast<size_t>(in_[at_++] - '0');
  }
  return at_ == begin ? std::nullopt : std::optional<size_t>(value);
}

std::optional<std::string> Translator::HexDigits(size_t count) {
  const std::string digits(in_.substr(at_, count));
  if (digits.size() < count) return std::nullopt;
  for (const char digit : digits) {
    if (std::isxdigit(static_cast<unsigned char>(digit)) == 0) return std::nullopt;
  }
  at_ += count;
  return digits;
}

Result<std::string> Translator::ReadProperty(bool negated) {
  const size_t end = in_.find('}', at_);
  if (!Next("{") || end == std::string_view::npos) return Unsupported("\\p without {name}");
  if (Next("^")) negated = !negated;
  const std::string name(in_.substr(at_, end - at_));
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_') {
      return Unsupported("this \\p{name}");
    }
  }
  if (caseless_ && (name == "Lu" || name == "Ll" || name == "Lt")) {
    return Unsupported("a caseless \\p{" + name + "}");
  }
  at_ = end + 1;
  return std::string(negated ? "\\P{" : "\\p{") + (IsCommonProperty(name) ? "" : "sc:") + name +
         "}";
}

Result<Translator::Escape> Translator::ReadEscape(bool in_class) {
  if (at_ + 1 >= in_.size()) return Unsupported("a backslash at the end");
  const char c = in_[at_ + 1];
  at_ += 2;
  const auto set = [](std::string_view items) { return Escape{std::string(items), "", true}; };
  const auto one = [](std::string_view text) { return Escape{std::string(text), "", false}; };
  switch (c) {
    case 's':
      return set(kSpace);
    case 'S':
      return set(kNotSpace);
    case 'd':
      return set("\\p{Nd}");
    case 'D':
      return set("\\P{Nd}");
    case 'w':
      return set(kWord);
    case 'W':
      if (in_class) return Unsupported("\\W in a class");
      return Escape{"", std::string(kWord), true};
    case 'p':
    case 'P': {
      const Result<std::string> property = ReadProperty(c == 'P');
      if (!property.ok()) return property.error();
      return set(*property);
    }
    case 'n':
    case 'r':
    case 't':
    case 'f':
    case 'a':
    case 'e':
      return one(std::string("\\") + c);
    case 'v':
      return one("\\x{0b}");
    case 'u': {
      const std::optional<std::string> digits = HexDigits(4);
      if (!digits) return Unsupported("\\u without four digits");
      return one("\\x{" + *digits + "}");
    }
    case 'x': {
      const size_t end = in_.find('}', at_);
      if (Next("{")) {
        const std::optional<std::string> digits =
            end == std::string_view::npos || end - at_ > 8 ? std::nullopt : HexDigits(end - at_);
        if (!digits || digits->empty() || !Next("}")) return Unsupported("this \\x{…}");
        return one("\\x{" + *digits + "}");
      }
      const std::optional<std::string> digits = HexDigits(2);
      // Two digits name a byte, and above 7F a byte is no character.
      if (!digits || (*digits)[0] >= '8') return Unsupported("this \\x");
      return one("\\x{" + *digits + "}");
    }
    default:
      if (static_cast<unsigned char>(c) < 0x80 &&
          std::isalnum(static_cast<unsigned char>(c)) == 0 &&
          std::isprint(static_cast<unsigned char>(c)) != 0) {
        return one(std::string("\\") + c);
      }
      return Unsupported("the escape \\" + std::string(1, c));
  }
}

Result<void> Translator::Class() {
  ++at_;
  std::string items = Next("^") ? "[^" : "[";
  if (More() && in_[at_] == ']') return Unsupported("a class that begins with ]");
  bool range_may_begin = false;  // the item before is one character, not a set or a range
  bool range_open = false;       // a hyphen that makes a range was just written
  while (More() && in_[at_] != ']') {
    const char c = in_[at_];
    if (c == '[') return Unsupported("a class inside a class");
    if (in_.substr(at_).starts_with("&&")) return Unsupported("&& in a class");
    if (c == '-') {
      ++at_;
      const bool at_end = !More() || in_[at_] == ']';
      range_open = range_may_begin && !range_open && !at_end;
      items += range_open ? "-" : "\\-";
      range_may_begin = !range_open;
      continue;
    }
    std::string item;
    bool is_set = false;
    if (c == '\\') {
      Result<Escape> escape = ReadEscape(true);
      if (!escape.ok()) return escape.error();
      item = std::move(escape->items);
      is_set = escape->is_set;
    } else {
      if (c == '^') item += '\\';
      do {
        item += in_[at_++];
      } while (More() && (static_cast<unsigned char>(in_[at_]) & 0xC0) == 0x80);
    }
    if (range_open && is_set) return Unsupported("a range that ends with a set");
    items += item;
    range_may_begin = !is_set && !range_open;
    range_open = false;
  }
  if (!Next("]")) return Unsupported("an unclosed class");
  Atom(items + "]");
  return Ok();
}

Result<void> Translator::Open() {
  groups_.push_back({out_.size(), caseless_});
  ++at_;
  out_ += '(';
  for (const std::string_view kind : {"?:", "?i:", "?-i:", "?=", "?!", "?<=", "?<!", "?>"}) {
    if (!Next(kind)) continue;
    if (kind == "?i:") caseless_ = true;
    if (kind == "?-i:") caseless_ = false;
    out_ += kind;
    return Ok();
  }
  if (Next("?") || Next("*")) return Unsupported("this kind of group");
  out_ += "?:";  // nothing refers back to it
  return Ok();
}

Result<void> Translator::Close() {
  if (groups_.empty()) return Unsupported("a ) without its (");
  ++at_;
  out_ += ')';
  atom_ = groups_.back().begin;
  caseless_ = groups_.back().caseless;
  groups_.pop_back();
  return Ok();
}

// {n}, {n,}, {,m} or {n,m}, with what follows it; false, and nothing read, where there is none.
bool Translator::Interval() {
  const size_t begin = at_++;
  const std::optional<size_t> low = DecimalDigits();
  const bool comma = Next(",");
  const std::optional<size_t> high = comma ? DecimalDigits() : low;
  if ((!low && !high) || !Next("}")) {
    at_ = begin;
    return false;
  }
  out_ += "{" + std::to_string(low.value_or(0)) + (comma ? "," : "") +
          (comma && high ? std::to_string(*high) : std::string()) + "}";
  const bool repeated = More() && in_[at_] == '+';
  const bool optional = More() && in_[at_] == '?' && !comma;
  if (repeated || optional) {
    out_.insert(atom_, "(?:");
    out_ += ')';  // the + or ? itself is copied next
  }
  return true;
}

}  // namespace

Result<std::string> TranslateOnigurumaPattern(std::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace hproc::worker
