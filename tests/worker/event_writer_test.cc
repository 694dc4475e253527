#include "worker/event_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "worker/lines.h"

namespace hproc::worker {
namespace {

using std::chrono::milliseconds;

struct Pipe {
  Pipe() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    read = UniqueFd(ends[0]);
    write = UniqueFd(ends[1]);
  }
  UniqueFd read;
  UniqueFd write;
};

// Events as the controller sees them, one at a time.
class EventStream {
 public:
  explicit EventStream(UniqueFd fd) : fd_(std::move(fd)) {}

  // nullopt at the end of the stream.
  std::optional<Event> Next() {
    for (;;) {
      if (const auto line = lines_.Next()) {
        Result<Event> event = DecodeEvent(*line);
        EXPECT_TRUE(event.ok()) << event.error().message;
        return *event;
      }
      char chunk[4096];
      const ssize_t n = ::read(fd_.get(), chunk, sizeof(chunk));
      if (n <= 0) return std::nullopt;
      lines_.Append({chunk, static_cast<size_t>(n)});
    }
  }

 private:
  UniqueFd fd_;
  LineSplitter lines_{kMaxLineBytes};
};

HelloEvent Hello() { return {1, "0.1.0", "a CPU", 0, 1}; }

EventWriter::Options Silent() {
  return {.heartbeat = milliseconds(0), .on_controller_gone = [] {}};
}

TEST(EventWriter, NumbersEventsInTheOrderOfThePipeWhicheverThreadWritesThem) {
  Pipe pipe;
  EventStream stream(std::move(pipe.read));
  constexpr int kThreads = 4;
  constexpr int kEach = 300;
  {
    EventWriter writer(std::move(pipe.write), Silent());
    // Some lines are larger than the pipe, so that partial writes happen too.
    const std::string large(200'000, 'x');
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < kEach; ++i) {
          EXPECT_TRUE(writer.Write(
              ProgressEvent{Phase::kLoad, i, thread, i % 100 == 0 ? large : std::string("bytes")}));
        }
      });
    }
    double last_t = 0;
    std::vector<int64_t> next(kThreads, 0);
    for (int64_t seq = 0; seq < kThreads * kEach; ++seq) {
      const std::optional<Event> event = stream.Next();
      ASSERT_TRUE(event.has_value());
      EXPECT_EQ(event->seq, seq);
      EXPECT_GE(event->t, last_t);
      last_t = event->t;
      const auto& progress = std::get<ProgressEvent>(event->body);
      EXPECT_EQ(progress.done, next[static_cast<size_t>(progress.total)]++);
    }
  }
  EXPECT_FALSE(stream.Next().has_value());
}

TEST(EventWriter, BeatsFromTheFirstEventOnAndCarriesTheCounter) {
  Pipe pipe;
  EventStream stream(std::move(pipe.read));
  EventWriter writer(std::move(pipe.write),
                     {.heartbeat = milliseconds(1), .on_controller_gone = {}});
  writer.progress() = 5;
  ASSERT_TRUE(writer.Write(Hello()));
  EXPECT_TRUE(std::holds_alternative<HelloEvent>(stream.Next()->body));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(std::get<HeartbeatEvent>(stream.Next()->body).counter, 5);
  writer.progress() += 2;
  int64_t counter = 5;
  while (counter == 5) counter = std::get<HeartbeatEvent>(stream.Next()->body).counter;
  EXPECT_EQ(counter, 7);
}

TEST(EventWriter, WritesNothingAfterTheLastEvent) {
  const EventBody last_events[] = {ResultEvent{ExitResult{}}, OutOfMemoryEvent{}, ErrorEvent{}};
  for (const EventBody& last : last_events) {
    Pipe pipe;
    EventStream stream(std::move(pipe.read));
    {
      EventWriter writer(std::move(pipe.write),
                         {.heartbeat = milliseconds(1), .on_controller_gone = {}});
      EXPECT_TRUE(writer.Write(Hello()));
      EXPECT_TRUE(writer.Write(last));
      EXPECT_FALSE(writer.Write(HeartbeatEvent{}));
    }
    std::optional<Event> event = stream.Next();
    std::optional<Event> final_event;
    for (; event; event = stream.Next()) final_event = event;
    ASSERT_TRUE(final_event.has_value());
    EXPECT_EQ(final_event->body.index(), last.index());
  }
}

TEST(EventWriter, TellsOnceThatTheControllerIsGoneAndSurvivesTheBrokenPipe) {
  Pipe pipe;
  std::atomic<int> told{0};
  EventWriter writer(std::move(pipe.write),
                     {.heartbeat = milliseconds(0), .on_controller_gone = [&] { ++told; }});
  EXPECT_TRUE(writer.Write(Hello()));
  pipe.read.Reset();
  EXPECT_FALSE(writer.Write(HeartbeatEvent{}));
  EXPECT_FALSE(writer.Write(HeartbeatEvent{}));
  EXPECT_EQ(told, 1);
}

TEST(EventWriterDeathTest, EndsTheProcessWhenTheControllerIsGone) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Pipe pipe;
        pipe.read.Reset();
        EventWriter writer(std::move(pipe.write));
        writer.Write(Hello());
      },
      testing::ExitedWithCode(kExitControllerGone), "");
}

}  // namespace
}  // namespace hproc::worker
