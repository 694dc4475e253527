// What the other end of the pipe may send when it is broken, of another version, or hostile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>
#include <string>

#include "worker/protocol.h"

namespace hproc::worker {
namespace {

using testing::HasSubstr;

struct BadLine {
  const char* name;
  std::string line;
  const char* complaint;  // must be part of the error
};

std::string Repeat(const std::string& text, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += text;
  return all;
}

std::string EventLine(const std::string& rest) { return R"({"v":1,"seq":0,"t":0,)" + rest + "}"; }
std::string Sample(const std::string& key, const std::string& value) {
  std::string line =
      EventLine(R"("type":"sample","id":1,"text":"x","token_ids":[1],"prompt_tokens":1,)"
                R"("finish":"length","nonfinite_logits":0)");
  const size_t at = line.find("\"" + key + "\":") + key.size() + 3;
  return line.replace(at, line.find_first_of(",}", at) - at, value);
}

void ExpectRefused(std::span<const BadLine> table) {
  for (const BadLine& bad : table) {
    SCOPED_TRACE(bad.name);
    const Result<Event> decoded = DecodeEvent(bad.line);
    ASSERT_FALSE(decoded.ok());
    const std::string& message = decoded.error().message;
    EXPECT_THAT(message, HasSubstr(bad.complaint));
    // Fit for a report: one short line of printable characters, whatever the line held.
    EXPECT_LT(message.size(), 300u);
    for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20);
  }
}

TEST(HostileEvent, IsRefusedWithTheReason) {
  const BadLine table[] = {
      {"Empty", "", "not JSON"},
      {"RandomBytes", "\x8f\x03\x1b[31m\xff", "not JSON at byte 1"},
      {"ByteOrderMark", "\xEF\xBB\xBF" + EventLine(R"("type":"heartbeat","counter":1)"),
       "not JSON at byte 1: a byte order mark"},
      {"NulBehindTheObject", EventLine(R"("type":"heartbeat","counter":1)") + std::string("\0{}", 3),
       "a NUL byte"},
      {"NulInsideAString", EventLine("\"type\":\"heart" + std::string(1, '\0') + "beat\""),
       "a NUL byte"},
      {"NotUtf8InsideAString", EventLine("\"type\":\"a\xff\""), "not JSON at byte"},
      {"CutInTheMiddle", R"({"v":1,"type":"hel)", "not JSON"},
      {"TwoObjects", R"({"v":1}{"v":1})", "not JSON at byte 8"},
      {"NotAnObject", "[1,2]", "the line is not an object"},
      {"JustNull", "null", "the line is not an object"},
      {"NoVersion", R"({"type":"hello"})", "v is missing"},
      {"OtherVersion", R"({"v":2,"type":"hello"})", "protocol version 2, not 1"},
      {"VersionAsText", R"({"v":"1","type":"hello"})", "v is string, not an integer"},
      {"NoType", R"({"v":1})", "type is missing"},
      {"UnknownType", EventLine(R"("type":"halo")"), "halo: an unknown event type"},
      {"UnknownTypeOfEscapes", EventLine(R"("type":"\u001b[2J\n")"), "an unknown event type"},
      {"KeyTwice", R"({"v":1,"type":"oom","type":"hello"})", "the key \"type\" is given twice"},
      {"KeyTwiceDeepInside", EventLine(R"("type":"mem","lines":[{"bytes":1,"bytes":2}])"),
       "given twice"},
      {"TooManyKeys",
       [] {
         std::string keys;
         for (int i = 0; i < 65; ++i) keys += "\"k" + std::to_string(i) + "\":0,";
         return EventLine(keys + "\"type\":\"hello\"");
       }(),
       "more than 64 keys"},
      {"NoSeq", R"({"v":1,"t":0,"type":"heartbeat","counter":0})", "heartbeat: seq is missing"},
      {"NegativeSeq", R"({"v":1,"seq":-1,"t":0,"type":"heartbeat","counter":0})",
       "seq is -1, below 0"},
      {"NullTime", R"({"v":1,"seq":0,"t":null,"type":"heartbeat","counter":0})",
       "t is of type null"},
      {"InfiniteNumber", EventLine(R"("type":"heartbeat","counter":1e999)"),
       "a number is out of range"},
      {"HugeCounter", EventLine(R"("type":"heartbeat","counter":9223372036854775808)"),
       "counter is 9223372036854775808, above 9223372036854775807"},
      {"HugerCounter", EventLine(R"("type":"heartbeat","counter":99999999999999999999)"),
       "not an integer of 64 bits"},
      {"FractionalCounter", EventLine(R"("type":"heartbeat","counter":1.5)"),
       "counter is 1.5, not an integer"},
      {"NaNLiteral", EventLine(R"("type":"heartbeat","counter":NaN)"), "not JSON"},
      {"NegativeBytes",
       EventLine(R"("type":"mem","device":"cpu","live_bytes":-5,"peak_bytes":0,)"
                 R"("cap_bytes":0,"lines":[])"),
       "mem: live_bytes is -5, below 0"},
      {"LedgerLineOfWrongType",
       EventLine(R"("type":"mem","device":"cpu","live_bytes":5,"peak_bytes":0,)"
                 R"("cap_bytes":0,"lines":[{"name":"kv","bytes":1},7])"),
       "mem: lines[1] is not an object"},
      {"LedgerLineWithoutBytes",
       EventLine(R"("type":"mem","device":"cpu","live_bytes":5,"peak_bytes":0,)"
                 R"("cap_bytes":0,"lines":[{"name":"kv"}])"),
       "mem: lines[0].bytes is missing"},
      {"UnknownPhase",
       EventLine(R"("type":"oom","phase":"lunch","device":"","requested_bytes":0,)"
                 R"("available_bytes":0,"what":"")"),
       "oom: phase is \"lunch\", an unknown word"},
      {"UnknownErrorKind", EventLine(R"("type":"error","kind":"bad","message":"")"),
       "kind is \"bad\""},
      {"RankOutsideTheWorld",
       EventLine(R"("type":"hello","pid":1,"worker_version":"","device_name":"",)"
                 R"("rank":2,"world_size":2)"),
       "hello: rank is 2, above 1"},
      {"UnknownResult", EventLine(R"("type":"result","of":"lunch")"), "result: of is \"lunch\""},
      {"ResultWithoutKind", EventLine(R"("type":"result")"), "result: of is missing"},
      {"SampleTextAsNumber", Sample("text", "5"), "sample: text is of type number, not a string"},
      {"SampleTokensAsText", Sample("token_ids", "\"1\""), "sample: token_ids is of type string"},
      {"SampleTokenTooLarge", Sample("token_ids", "[4294967296]"),
       "sample: token_ids[0] is 4294967296, above 2147483647"},
      {"SampleTokenNegative", Sample("token_ids", "[-1]"), "sample: token_ids[0] is -1, below 0"},
      {"SampleFinishUnknown", Sample("finish", "\"tired\""), "sample: finish is \"tired\""},
      {"SampleCountNull", Sample("nonfinite_logits", "null"), "sample: nonfinite_logits is null"},
  };
  ExpectRefused(table);
}

// Lines made to cost more than they weigh.
TEST(CostlyEvent, IsRefusedBeforeATreeIsBuilt) {
  const BadLine table[] = {
      {"UnknownTypeOfOneMegabyte", EventLine("\"type\":\"" + Repeat("x", 1 << 20) + "\""),
       "an unknown event type"},
      {"DeepNesting", Repeat("[", 1 << 20), "nested deeper"},
      {"DeepNestingOfObjects", Repeat("{\"a\":", 1 << 20), "nested deeper"},
      {"FiveMillionValues", "[" + Repeat("0,", 5'000'000) + "0]", "more values than any message"},
      {"TooLong", std::string(kMaxLineBytes + 1, ' '), "more than 67108864"},
  };
  ExpectRefused(table);
}

std::string JobLine(const std::string& deployment) {
  return R"({"v":1,"type":"measure","model_dir":"m","table_folder":"t","mode":"auto","deployment":)" + deployment +
         "}";
}

TEST(HostileJob, IsRefusedWithTheReason) {
  const BadLine table[] = {
      {"command", R"({"v":1,"type":"finish"})", "finish: an unknown job type"},
      {"no deployment", R"({"v":1,"type":"measure","model_dir":"m","table_folder":"t"})",
       "deployment is missing"},
      {"deployment null", JobLine("null"), "measure: deployment is not an object"},
      {"context 0",
       JobLine(R"({"device":"cpu","threads":0,"rank":0,"world_size":1,"context":0,"batch":1,)"
               R"("prefill_chunk":0,"kv_dtype":"f16"})"),
       "measure: deployment.context is 0, below 1"},
      {"rank beyond the world",
       JobLine(R"({"device":"cpu","threads":0,"rank":1,"world_size":1,"context":1,"batch":1,)"
               R"("prefill_chunk":0,"kv_dtype":"f16"})"),
       "measure: deployment.rank is 1, above 0"},
  };
  for (const BadLine& bad : table) {
    const Result<Job> decoded = DecodeJob(bad.line);
    ASSERT_FALSE(decoded.ok()) << bad.name;
    EXPECT_THAT(decoded.error().message, HasSubstr(bad.complaint)) << bad.name;
  }
}

TEST(HostileCommand, IsRefusedWithTheReason) {
  const auto generate = [](const std::string& tokens, const std::string& sampling) {
    return R"({"v":1,"type":"generate","requests":[{"id":0,"prompt":"","max_new_tokens":1,"stop":[],"sampling":)"
           R"({"temperature":0,"top_k":0,"top_p":1,"seed":0}},{"id":1,"prompt":"","max_new_tokens":)" +
           tokens + R"(,"stop":[],"sampling":)" + sampling + "}]}";
  };
  const std::string sampling = R"({"temperature":0,"top_k":0,"top_p":1,"seed":0})";
  ASSERT_TRUE(DecodeCommand(generate("1", sampling)).ok());
  const BadLine table[] = {
      {"event", EncodeEvent({.body = HeartbeatEvent{}}), "heartbeat: an unknown command type"},
      {"no tokens", generate("0", sampling), "generate: requests[1].max_new_tokens is 0, below 1"},
      {"top_p", generate("1", R"({"temperature":0,"top_k":0,"top_p":1.01,"seed":0})"),
       "requests[1].sampling.top_p is 1.01, out of range"},
      {"temperature null", generate("1", R"({"temperature":null,"top_k":0,"top_p":1,"seed":0})"),
       "requests[1].sampling.temperature is of type null"},
      {"seed negative", generate("1", R"({"temperature":0,"top_k":0,"top_p":1,"seed":-1})"),
       "requests[1].sampling.seed is not an integer"},
      {"throughput", R"({"v":1,"type":"throughput","spec":{"prompt_tokens":0}})",
       "throughput: spec.prompt_tokens is 0, below 1"},
      {"stop not text",
       R"({"v":1,"type":"generate","requests":[{"id":0,"prompt":"","max_new_tokens":1,"stop":["a",1]}]})",
       "generate: requests[0].stop[1] is of type number, not a string"},
  };
  for (const BadLine& bad : table) {
    const Result<Command> decoded = DecodeCommand(bad.line);
    ASSERT_FALSE(decoded.ok()) << bad.name;
    EXPECT_THAT(decoded.error().message, HasSubstr(bad.complaint)) << bad.name;
  }
}

// Every prefix of a good line is a bad one, and reading it is safe.
TEST(HostileEventPrefix, IsRefusedAtEveryLength) {
  const std::string line =
      EncodeEvent({.seq = 3,
                   .t = 1.5,
                   .body = SampleEvent{{.id = 4, .text = "é #### 5", .token_ids = {1, 2}}}});
  for (size_t length = 0; length + 1 < line.size(); ++length) {
    EXPECT_FALSE(DecodeEvent(std::string_view(line).substr(0, length)).ok()) << length;
  }
}

}  // namespace
}  // namespace hproc::worker
