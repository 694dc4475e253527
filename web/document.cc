#include "web/document.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/utf8.h"

namespace hproc::web {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #667; --line: #ccd2d9; --fit: #dcefe3;
  --garbage: #f2dfc4; --point: #14508c; --best: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171a; --faint: #9aa4ad; --line: #3a4149;
  --fit: #1d3b2a; --garbage: #43331a; --point: #7fb8f0; --best: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left; vertical-align: top; }
pre { background: color-mix(in srgb, var(--ink) 6%, var(--paper)); padding: .7rem; white-space: pre-wrap; font-size: .85rem; }
figure { margin: 1rem 0; } figcaption { color: var(--faint); font-size: .9rem; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
)";

std::string CleanText(std::string_view text) {
  std::string clean;
  for (const char c : ReplaceInvalidUtf8(text)) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) {
      AppendUtf8(clean, 0xFFFD);
    } else {
      clean += c;
    }
  }
  return clean;
}

// What would begin markup in a line of Markdown, with a backslash before it.
std::string EscapeMarkdown(std::string_view text) {
  std::string escaped;
  for (const char c : CleanText(text)) {
    if (std::string_view("\\`*_{}[]<>#|~&").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c == '\n' ? ' ' : c;
  }
  return escaped;
}

// A fence longer than any run of backticks inside.
std::string Fenced(std::string_view text) {
  const std::string clean = CleanText(text);
  size_t longest = 0;
  size_t run = 0;
  for (const char c : clean) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  const std::string fence(std::max<size_t>(3, longest + 1), '`');
  return fmt::format("{}text\n{}{}{}\n", fence, clean, clean.ends_with('\n') ? "" : "\n", fence);
}

struct MarkdownForm {
  std::string operator()(const Heading& heading) const {
    return std::string(static_cast<size_t>(heading.level), '#') + ' ' + EscapeMarkdown(heading.text) + '\n';
  }
  std::string operator()(const Paragraph& paragraph) const { return EscapeMarkdown(paragraph.text) + '\n'; }
  std::string operator()(const Table& table) const {
    std::string text = Row(table.head) + "|";
    for (size_t i = 0; i < table.head.size(); ++i) text += "---|";
    text += '\n';
    for (const std::vector<std::string>& row : table.rows) text += Row(row);
    return text;
  }
  std::string operator()(const Verbatim& verbatim) const { return Fenced(verbatim.text); }
  std::string operator()(const Figure& figure) const {
    return (figure.plain.empty() ? "" : Fenced(figure.plain) + '\n') + EscapeMarkdown(figure.caption) + '\n';
  }

 private:
  static std::string Row(const std::vector<std::string>& cells) {
    std::string row = "|";
    for (const std::string& cell : cells) row += ' ' + EscapeMarkdown(cell) + " |";
    return row + '\n';
  }
};

struct HtmlForm {
  std::string operator()(const Heading& heading) const {
    return fmt::format("<h{0}>{1}</h{0}>\n", heading.level, EscapeHtml(heading.text));
  }
  std::string operator()(const Paragraph& paragraph) const { return fmt::format("<p>{}</p>\n", EscapeHtml(paragraph.text)); }
  std::string operator()(const Table& table) const {
    std::string text = "<div class=\"scroll\"><table>\n<thead><tr>";
    for (const std::string& cell : table.head) text += fmt::format("<th scope=\"col\">{}</th>", EscapeHtml(cell));
    text += "</tr></thead>\n<tbody>\n";
    for (const std::vector<std::string>& row : table.rows) {
      text += "<tr>";
      for (const std::string& cell : row) text += fmt::format("<td>{}</td>", EscapeHtml(cell));
      text += "</tr>\n";
    }
    return text + "</tbody></table></div>\n";
  }
  std::string operator()(const Verbatim& verbatim) const { return fmt::format("<pre>{}</pre>\n", EscapeHtml(verbatim.text)); }
  std::string operator()(const Figure& figure) const {
    return fmt::format("<figure>{}<figcaption>{}</figcaption></figure>\n", figure.svg, EscapeHtml(figure.caption));
  }
};

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string escaped;
  for (const char c : CleanText(text)) {
    switch (c) {
      case '&': escaped += "&amp;"; break;
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '"': escaped += "&quot;"; break;
      case '\'': escaped += "&#39;"; break;
      default: escaped += c;
    }
  }
  return escaped;
}

std::string ToMarkdown(const Document& document) {
  std::string text = MarkdownForm()(Heading{1, document.title});
  for (const Block& block : document.blocks) text += '\n' + std::visit(MarkdownForm(), block);
  return text;
}

std::string ToHtml(const Document& document) {
  std::string text = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n",
      EscapeHtml(document.title), kStyle);
  for (const Block& block : document.blocks) text += std::visit(HtmlForm(), block);
  return text + "</main>\n</body>\n</html>\n";
}

}  // namespace hproc::web
