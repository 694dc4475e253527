#include "controller/study.h"

#include <gtest/gtest.h>

#include <set>

namespace hproc::controller {
namespace {

// Every enumerator from the first to `last` has a name of its own that reads back as itself.
template <typename E>
void ExpectNamesBothWays(E last, std::string_view (*name_of)(E),
                         std::optional<E> (*from_name)(std::string_view)) {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(last); ++i) {
    const E value = static_cast<E>(i);
    EXPECT_TRUE(names.insert(name_of(value)).second) << name_of(value);
    EXPECT_EQ(from_name(name_of(value)), value) << name_of(value);
  }
  for (const std::string_view unknown : {"", "None", "complete ", "?"}) {
    EXPECT_FALSE(from_name(unknown).has_value()) << unknown;
  }
}

TEST(StudyNames, ReadBackAsWhatTheyName) {
  ExpectNamesBothWays(TrialKind::kBaselineInt4, TrialKindName, TrialKindFromName);
  ExpectNamesBothWays(TrialState::kFailed, TrialStateName, TrialStateFromName);
  ExpectNamesBothWays(Reason::kInterrupted, ReasonName, ReasonFromName);
  ExpectNamesBothWays(StudyState::kDone, StudyStateName, StudyStateFromName);
  ExpectNamesBothWays(evals::FinishReason::kCancelled, evals::FinishReasonName,
                      evals::FinishReasonFromName);
  ExpectNamesBothWays(evals::ThroughputKind::kLongDecode, evals::ThroughputKindName,
                      evals::ThroughputKindFromName);
}

TEST(StudyNames, AreTheWordsOfTheDesign) {
  EXPECT_EQ(TrialKindName(TrialKind::kBaseline16Bit), "baseline_16bit");
  EXPECT_EQ(TrialStateName(TrialState::kInfeasible), "infeasible");
  EXPECT_EQ(ReasonName(Reason::kOutOfMemory), "out_of_memory");
  EXPECT_EQ(ReasonName(Reason::kHostOutOfMemory), "host_oom");
  EXPECT_EQ(StudyStateName(StudyState::kInterrupted), "interrupted");
}

}  // namespace
}  // namespace hproc::controller
