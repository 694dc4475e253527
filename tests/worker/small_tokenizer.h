// A tokenizer.json to take apart: the 256 bytes as tokens 0 to 255, and what a test puts on top.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "worker/byte_level.h"
#include "worker/tokenizer.h"

namespace hproc::worker {

// `text` as a JSON string, quotes included.
inline std::string JsonQuoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\n') {
      quoted += "\\n";
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

struct SmallTokenizer {
  std::vector<std::string> tokens = {};  // in the byte-level alphabet; ids from 256 on
  std::string merges = "[]";
  std::string model_fields = {};  // put in front of the vocab: "\"ignore_merges\":true,"
  std::string added_tokens = "[]";
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
  std::string decoder = R"({"type":"ByteLevel"})";
  std::string extra = {};  // more members of the document, each with a comma behind it

  std::string Json() const {
    std::string vocab;
    for (int byte = 0; byte < 256; ++byte) {
      vocab += (byte > 0 ? "," : "") + JsonQuoted(ByteLevelChar(static_cast<uint8_t>(byte))) + ":" +
               std::to_string(byte);
    }
    int id = 256;
    for (const std::string& token : tokens) {
      vocab += "," + JsonQuoted(token) + ":" + std::to_string(id++);
    }
    return "{" + extra + R"("version":"1.0","added_tokens":)" + added_tokens +
           ",\"normalizer\":" + normalizer + ",\"pre_tokenizer\":" + pre_tokenizer +
           ",\"post_processor\":null,\"decoder\":" + decoder + R"(,"model":{"type":"BPE",)" +
           model_fields + "\"vocab\":{" + vocab + "},\"merges\":" + merges + "}}";
  }

  // Fails the test where the file is refused.
  Tokenizer Load() const {
    Result<Tokenizer> tokenizer = Tokenizer::FromJson(Json(), "small");
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    return std::move(*tokenizer);
  }

  // The message behind the label; "accepted" where there is none.
  std::string Error() const {
    const Result<Tokenizer> tokenizer = Tokenizer::FromJson(Json(), "small");
    return tokenizer.ok() ? "accepted" : tokenizer.error().message.substr(sizeof "small: " - 1);
  }
};

// One entry of added_tokens; `flags` names those that are true, each between blanks.
inline std::string AddedToken(int id, std::string_view content, std::string_view flags = "") {
  std::string entry = "{\"id\":" + std::to_string(id) + ",\"content\":" + JsonQuoted(content);
  for (const std::string name : {"single_word", "lstrip", "rstrip", "normalized", "special"}) {
    const bool on = flags.find(name) != std::string_view::npos;
    entry += ",\"" + name + "\":" + (on ? "true" : "false");
  }
  return entry + "}";
}

}  // namespace hproc::worker
