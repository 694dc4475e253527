// The contract of Store (controller/store.h) as one suite. Every implementation instantiates it:
//
//   INSTANTIATE_TEST_SUITE_P(Memory, StoreContract, testing::Values(…));
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "controller/clock.h"
#include "controller/store.h"

namespace hproc::controller {

// A store and what it stands on.
class StoreUnderTest {
 public:
  virtual ~StoreUnderTest() = default;
  // For the next call alone: an implementation may close and open the store between two of them.
  virtual Store& store() = 0;
};

struct StoreFactory {
  std::string name;
  std::function<std::unique_ptr<StoreUnderTest>(Clock)> make;
};

class StoreContract : public testing::TestWithParam<StoreFactory> {
 protected:
  void SetUp() override;

  Store& store() { return under_test_->store(); }
  int64_t NewStudy(const std::string& name = "study");
  Trial NewTrialOf(int64_t study_id, int n);
  Trial RunningTrial(int64_t study_id, int n);

  std::unique_ptr<StoreUnderTest> under_test_;
};

inline std::string StoreFactoryName(const testing::TestParamInfo<StoreFactory>& info) {
  return info.param.name;
}

}  // namespace hproc::controller
