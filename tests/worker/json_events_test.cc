#include "worker/json_events.h"

#include <gtest/gtest.h>

namespace hproc::worker {
namespace {

// Writes down what it is told.
class Recorder final : public JsonHandler {
 public:
  Result<void> OnScalar(const JsonScalar& scalar) override {
    switch (scalar.kind) {
      case JsonScalar::Kind::kNull:
        events += "null ";
        break;
      case JsonScalar::Kind::kBool:
        events += scalar.boolean ? "true " : "false ";
        break;
      case JsonScalar::Kind::kUnsigned:
        events += "u" + std::to_string(scalar.number) + " ";
        break;
      case JsonScalar::Kind::kOtherNumber:
        events += "n" + std::to_string(scalar.other) + " ";
        break;
      case JsonScalar::Kind::kString:
        events += "'" + *scalar.text + "' ";
        break;
    }
    return *scalar_error ? Result<void>(Error{scalar_error}) : Ok();
  }
  Result<void> OnKey(std::string& key) override {
    events += key + ": ";
    return Ok();
  }
  Result<void> OnBegin(bool is_object) override {
    events += is_object ? "{ " : "[ ";
    return Ok();
  }
  Result<void> OnEnd() override {
    events += "end ";
    return Ok();
  }

  std::string events;
  const char* scalar_error = "";
};

TEST(ParseJson, TellsTheDocumentInItsOwnOrder) {
  Recorder recorder;
  ASSERT_TRUE(
      ParseJson(R"( {"b":[1,-2,0.5,"x\u00e9"],"a":{"t":true,"n":null,"t":false}} )", {}, recorder)
          .ok());
  EXPECT_EQ(recorder.events,
            "{ b: [ u1 n-2.000000 n0.500000 'x\u00e9' end a: { t: true n: null t: false end end ");
}

TEST(ParseJson, CallsOnlyPlainNumbersUnsigned) {
  Recorder recorder;
  ASSERT_TRUE(
      ParseJson("[0,18446744073709551615,18446744073709551616,-0,1e0,1.0]", {}, recorder).ok());
  EXPECT_EQ(
      recorder.events,
      "[ u0 u18446744073709551615 n18446744073709551616.000000 n0.000000 n1.000000 n1.000000 end ");
}

TEST(ParseJson, StopsWhereTheHandlerObjects) {
  Recorder recorder;
  recorder.scalar_error = "no scalars here";
  const Result<void> read = ParseJson("[1,2", {}, recorder);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().message, "no scalars here");
  EXPECT_EQ(recorder.events, "[ u1 ");
}

TEST(ParseJson, RefusesDocumentsThatOtherReadersWouldSeeDifferently) {
  Recorder recorder;
  EXPECT_FALSE(ParseJson(std::string_view("{}\0{\"hidden\":1}", 15), {}, recorder).ok());
  EXPECT_FALSE(ParseJson("\xEF\xBB\xBF{}", {}, recorder).ok());
  EXPECT_FALSE(ParseJson("{} // comment", {}, recorder).ok());
  EXPECT_FALSE(ParseJson("[1,]", {}, recorder).ok());
  EXPECT_FALSE(ParseJson("[01]", {}, recorder).ok());
  EXPECT_FALSE(ParseJson("[NaN]", {}, recorder).ok());
}

TEST(ParseJson, CapsTheDepthBeforeTheMemory) {
  Recorder recorder;
  EXPECT_TRUE(ParseJson("[[[]]]", {.max_depth = 3}, recorder).ok());
  const Result<void> read = ParseJson(std::string(100, '['), {.max_depth = 3}, recorder);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().message, "JSON nested more than 3 deep");
}

}  // namespace
}  // namespace hproc::worker
