#include "web/event_hub.h"

#include <gtest/gtest.h>

#include <thread>

namespace hproc::web {
namespace {

using std::chrono::milliseconds;

std::vector<std::string> Data(const EventHub::Batch& batch) {
  std::vector<std::string> data;
  for (const auto& event : batch.events) data.push_back(event->data);
  return data;
}

TEST(EventHub, GivesWhatCameAfterTheEventNamedInOrder) {
  EventHub hub;
  for (const char* data : {"1", "2", "3"}) hub.Publish("note", data);
  EXPECT_EQ(Data(hub.Await(1, milliseconds(0))), (std::vector<std::string>{"2", "3"}));
  EXPECT_FALSE(hub.Await(1, milliseconds(0)).lost);
  EXPECT_TRUE(hub.Await(3, milliseconds(1)).events.empty());
}

TEST(EventHub, SaysThatEventsAreGone) {
  EventHub hub(3, 1 << 20);
  for (int i = 1; i <= 5; ++i) hub.Publish("note", std::to_string(i));
  const EventHub::Batch late = hub.Await(1, milliseconds(0));
  EXPECT_TRUE(late.lost);
  EXPECT_EQ(Data(late), (std::vector<std::string>{"3", "4", "5"}));
  EXPECT_FALSE(hub.Await(2, milliseconds(0)).lost) << "the third is still here";
}

TEST(EventHub, KeepsNoMoreBytesThanAsked) {
  EventHub hub(1000, 100);
  for (int i = 0; i < 50; ++i) hub.Publish("n", std::string(19, 'x'));
  EXPECT_EQ(hub.Await(0, milliseconds(0)).events.size(), 5U);
}

TEST(EventHub, TakesNoIdOfAnotherProcess) {
  const EventHub ours;
  EventHub other;
  other.Publish("note", "1");
  EXPECT_EQ(other.NumberOf(other.IdOf(1)), 1U);
  EXPECT_FALSE(ours.NumberOf(other.IdOf(1)));
  for (const char* id : {"", "-", "1", "deadbeef-1", "x-", "\n"}) EXPECT_FALSE(ours.NumberOf(id)) << id;
  EXPECT_FALSE(other.NumberOf(other.IdOf(1) + "x"));
}

TEST(EventHub, BeginsWithTheRunThatWasMarked) {
  EventHub hub;
  hub.Publish("note", "before");
  hub.MarkRun();
  hub.Publish("run", "{}");
  EXPECT_EQ(Data(hub.Await(hub.before_run(), milliseconds(0))), (std::vector<std::string>{"{}"}));
}

TEST(EventHub, WakesWhoWaitsAtItsEnd) {
  EventHub hub;
  std::thread waiting([&] { EXPECT_TRUE(hub.Await(0, std::chrono::minutes(5)).closed); });
  hub.Close();
  waiting.join();
}

}  // namespace
}  // namespace hproc::web
