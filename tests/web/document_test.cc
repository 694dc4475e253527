#include "web/document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hproc::web {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(EscapeHtml, LeavesNothingThatCouldBeMarkupInTextOrAttribute) {
  EXPECT_EQ(EscapeHtml("<script>alert('x') & \"y\"</script>"),
            "&lt;script&gt;alert(&#39;x&#39;) &amp; &quot;y&quot;&lt;/script&gt;");
}

TEST(EscapeHtml, ReplacesWhatIsNoTextAndKeepsLinesAndTabs) {
  EXPECT_EQ(EscapeHtml(std::string_view("a\0b\x1b[31m\x7f\xff\n\t", 12)),
            "a\uFFFDb\uFFFD[31m\uFFFD\uFFFD\n\t");
}

// Every kind of block with the same hostile text in it.
Document Hostile(const std::string& text) {
  return {.title = text,
          .blocks = {Heading{2, text}, Paragraph{text}, Table{.head = {text, "b"}, .rows = {{text, text}}}, Verbatim{text},
                     Figure{.svg = "<svg></svg>", .caption = text, .plain = text}}};
}

TEST(ToHtml, EscapesTextInEveryKindOfBlock) {
  const std::string html = ToHtml(Hostile("</pre></table><img src=x onerror=alert(1)>"));
  EXPECT_THAT(html, Not(HasSubstr("<img")));
  EXPECT_THAT(html, HasSubstr("&lt;img src=x onerror=alert(1)&gt;"));
  EXPECT_THAT(html, HasSubstr("<svg></svg>"));
}

TEST(ToHtml, AsksForNothingFromOutsideAndAllowsNoScript) {
  const std::string html = ToHtml(Hostile("text"));
  EXPECT_THAT(html, HasSubstr("default-src 'none'"));
  for (const char* outside : {"http:", "https:", "<script", "@import", "url("}) EXPECT_THAT(html, Not(HasSubstr(outside)));
}

TEST(ToMarkdown, EscapesMarkupOutsideOfFences) {
  const std::string markdown = ToMarkdown({.title = "t", .blocks = {Paragraph{"a *b* <i> | c"}, Table{{"x|y"}, {{"1\n2"}}}}});
  EXPECT_THAT(markdown, HasSubstr("a \\*b\\* \\<i\\> \\| c\n"));
  EXPECT_THAT(markdown, HasSubstr("| x\\|y |\n|---|\n| 1 2 |\n"));
}

TEST(ToMarkdown, FencesVerbatimTextWithMoreBackticksThanItHolds) {
  const std::string markdown = ToMarkdown({.title = "t", .blocks = {Verbatim{"```\nout of the fence"}}});
  EXPECT_THAT(markdown, HasSubstr("````text\n```\nout of the fence\n````\n"));
}

TEST(ToMarkdown, PutsAFiguresPlainFormInItsPlace) {
  const Document document{.title = "t", .blocks = {Figure{.svg = "<svg/>", .caption = "what it shows", .plain = "* o x"}}};
  const std::string markdown = ToMarkdown(document);
  EXPECT_THAT(markdown, HasSubstr("```text\n* o x\n```\n\nwhat it shows\n"));
  EXPECT_THAT(markdown, Not(HasSubstr("<svg")));
}

}  // namespace
}  // namespace hproc::web
