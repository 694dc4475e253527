// A document of headings, paragraphs, tables, figures and verbatim text, and its two forms: Markdown, and one HTML page that
// needs nothing else. Text is plain and may come from anywhere (model output, tensor names): both forms escape it.
// Values; thread-compatible.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace hproc::web {

struct Heading {
  int level = 2;  // 1 to 4
  std::string text;
};
struct Paragraph {
  std::string text;
};
struct Table {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;  // each as long as the head
};
struct Verbatim {
  std::string text;
};
// Every figure says in words what it shows. `svg` is markup made here, never text from elsewhere.
struct Figure {
  std::string svg;
  std::string caption;
  std::string plain;  // what stands in its place in Markdown, verbatim; empty: the caption alone
};
using Block = std::variant<Heading, Paragraph, Table, Verbatim, Figure>;

struct Document {
  std::string title;
  std::vector<Block> blocks;
};

std::string ToMarkdown(const Document& document);
// No script, no outside resource; light and dark.
std::string ToHtml(const Document& document);

// & < > " and ' as entities; control characters but tab and newline, and bytes that are no UTF-8, as U+FFFD.
std::string EscapeHtml(std::string_view text);

}  // namespace hproc::web
