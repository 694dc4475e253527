#include "base/printable.h"

#include <gtest/gtest.h>

namespace hproc {
namespace {

using namespace std::string_literals;

TEST(Printable, LeavesOrdinaryNamesAlone) {
  EXPECT_EQ(Printable("model.layers.0.mlp.down_proj.weight"),
            "model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(Printable("\u91cd\u307f \u00e9"), "\u91cd\u307f \u00e9");
}

TEST(Printable, EscapesWhatActsOnATerminalOrReordersText) {
  EXPECT_EQ(Printable("a\nb\tc\rd"), "a\\nb\\tc\\rd");
  EXPECT_EQ(Printable("nul\0esc\x1B[2J"s), "nul\\u{0000}esc\\u{001B}[2J");
  EXPECT_EQ(Printable("\u202Etxt.exe\u2066"), "\\u{202E}txt.exe\\u{2066}");
  EXPECT_EQ(Printable("zero\u200Bwidth\uFEFF"), "zero\\u{200B}width\\u{FEFF}");
  EXPECT_EQ(Printable("line\u2028break\u0085"), "line\\u{2028}break\\u{0085}");
  EXPECT_EQ(Printable("\xFF\xE6\x97x"), "\\xFF\\xE6\\x97x");
  EXPECT_EQ(Printable("it's \\n"), "it\\'s \\\\n");
}

TEST(Printable, CutsLongNamesInTheMiddleAndSaysHowLongTheyWere) {
  const std::string name =
      std::string(60, 'a') + std::string(1'000'000, 'b') + std::string(24, 'c');
  std::string cut(60, 'a');
  cut.append("\u2026").append(24, 'c').append(" (1000084 bytes)");
  EXPECT_EQ(Printable(name), cut);
}

TEST(Printable, CutsBetweenCharacters) {
  std::string name;
  for (int i = 0; i < 100; ++i) name += "\u65e5";
  const std::string shown = Printable("x" + name);
  EXPECT_EQ(shown.find("\\x"), std::string::npos) << shown;
  EXPECT_NE(shown.find("(301 bytes)"), std::string::npos) << shown;
}

}  // namespace
}  // namespace hproc
