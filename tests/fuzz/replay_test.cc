// Runs a fuzz target over its corpus: seeds that must pass, and past findings that must not come
// back. The targets abort where one of their rules is broken.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>

#include "base/file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace hproc {
namespace {

class FuzzCorpus : public testing::Test {
 public:
  void TestBody() override {
    int inputs = 0;
    for (const auto& entry : std::filesystem::directory_iterator(HPROC_FUZZ_CORPUS)) {
      SCOPED_TRACE(entry.path().string());
      const Result<std::string> input = ReadFile(entry.path(), int64_t{1} << 24);
      ASSERT_TRUE(input.ok()) << input.error().message;
      EXPECT_EQ(
          LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input->data()), input->size()),
          0);
      ++inputs;
    }
    EXPECT_GE(inputs, 3) << "the seeds are missing";
  }
};

// Registered by hand, so that ctest shows which target it is.
const bool kRegistered = [] {
  testing::RegisterTest("FuzzCorpus", HPROC_FUZZ_NAME, nullptr, nullptr, __FILE__, __LINE__,
                        []() -> FuzzCorpus* { return new FuzzCorpus; });
  return true;
}();

}  // namespace
}  // namespace hproc
