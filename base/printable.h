// Names from outside made fit for a message.
#pragma once

#include <string>
#include <string_view>

namespace hproc {

// `text` (a tensor's name, a file's, a JSON key) in one line that shows what is in it and cannot
// act on a terminal or turn the text around it: control characters, line separators, bidirectional
// marks, invisible characters and bytes that are not UTF-8 are written as \n, \u{202E}, \xFF; a
// backslash and a single quote, which usually encloses the name, get a backslash. What is longer
// than 96 bytes is cut in the middle: "first part…last part (1048576 bytes)".
std::string Printable(std::string_view text);

// The same for a whole message, which quotes nothing and is not cut: quotes and backslashes stay as they are.
std::string PrintableLine(std::string_view text);

// Characters that are invisible, break the line or reorder it; control characters among them.
bool IsDeceptive(char32_t code_point);

}  // namespace hproc
