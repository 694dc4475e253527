#include "tests/controller/store_contract.h"

namespace hproc::controller {
namespace {

class InMemory : public StoreUnderTest {
 public:
  explicit InMemory(Clock clock) : store_(MakeMemoryStore(std::move(clock))) {}
  Store& store() override { return *store_; }

 private:
  std::unique_ptr<Store> store_;
};

INSTANTIATE_TEST_SUITE_P(
    Memory, StoreContract,
    testing::Values(StoreFactory{
        "Memory", [](Clock clock) { return std::make_unique<InMemory>(std::move(clock)); }}),
    StoreFactoryName);

}  // namespace
}  // namespace hproc::controller
