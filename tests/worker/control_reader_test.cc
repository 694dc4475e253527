#include "worker/control_reader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <future>
#include <thread>

namespace hproc::worker {
namespace {

using testing::HasSubstr;

// A reader and the controller's end of its pipe.
class ControlReaderTest : public testing::Test {
 protected:
  ControlReaderTest() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    control_ = UniqueFd(ends[1]);
    reader_.emplace(UniqueFd(ends[0]), [this] { gone_.set_value(); });
  }

  void Put(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(control_.get(), bytes.data(), bytes.size());
      ASSERT_GT(n, 0);
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }
  void PutJob() {
    TrialJob job;
    job.deployment.context = 16;
    Put(EncodeJob(job));
  }
  void PutGenerate(int64_t id) {
    GenerateCommand generate;
    generate.requests.emplace_back().id = id;
    Put(EncodeCommand(generate));
  }
  void PutCancel() { Put(EncodeCommand(CancelCommand{})); }
  void PutFinish() { Put(EncodeCommand(FinishCommand{})); }

  int64_t TakeGenerate() {
    return std::get<GenerateCommand>(*reader_->NextCommand()).requests[0].id;
  }

  UniqueFd control_;
  std::promise<void> gone_;
  std::optional<ControlReader> reader_;
};

TEST_F(ControlReaderTest, HandsOverTheJobAndThenTheCommandsInOrder) {
  PutJob();
  PutGenerate(7);
  Put(EncodeCommand(ThroughputCommand{{.repetitions = 3}}));
  PutFinish();
  EXPECT_EQ(std::get<TrialJob>(*reader_->ReadJob()).deployment.context, 16);
  EXPECT_EQ(TakeGenerate(), 7);
  EXPECT_EQ(std::get<ThroughputCommand>(*reader_->NextCommand()).spec.repetitions, 3);
  EXPECT_TRUE(std::holds_alternative<FinishCommand>(*reader_->NextCommand()));
}

TEST_F(ControlReaderTest, SeesACancelWhileAGenerateRuns) {
  PutJob();
  PutGenerate(1);
  EXPECT_EQ(TakeGenerate(), 1);
  EXPECT_FALSE(reader_->cancelled());
  PutCancel();
  while (!reader_->cancelled()) std::this_thread::yield();  // the working thread, busy with tokens
}

TEST_F(ControlReaderTest, AppliesACancelToTheGeneratesBeforeItAndToNoneAfter) {
  PutJob();
  PutGenerate(1);
  PutGenerate(2);
  PutCancel();
  PutGenerate(3);
  control_.Reset();
  gone_.get_future().wait();  // all is read, and nothing taken yet
  EXPECT_EQ(TakeGenerate(), 1);
  EXPECT_TRUE(reader_->cancelled());
  EXPECT_EQ(TakeGenerate(), 2);
  EXPECT_TRUE(reader_->cancelled());
  EXPECT_EQ(TakeGenerate(), 3);
  EXPECT_FALSE(reader_->cancelled());
}

TEST_F(ControlReaderTest, IgnoresACancelWithoutAGenerate) {
  PutJob();
  PutCancel();
  PutGenerate(1);
  EXPECT_EQ(TakeGenerate(), 1);
  EXPECT_FALSE(reader_->cancelled());
}

TEST_F(ControlReaderTest, SaysThatTheControllerIsGoneWhileNobodyWaitsForACommand) {
  PutJob();
  PutGenerate(1);
  control_.Reset();
  gone_.get_future().wait();
  EXPECT_TRUE(reader_->ReadJob().ok());
  EXPECT_EQ(TakeGenerate(), 1);
  EXPECT_THAT(reader_->NextCommand().error().message, HasSubstr("controller is gone"));
}

TEST_F(ControlReaderTest, SeesEofBehindCommandsThatNobodyTakes) {
  PutJob();
  for (size_t i = 0; i <= ControlReader::kMaxQueued; ++i) PutGenerate(0);
  control_.Reset();
  gone_.get_future().wait();
  for (size_t i = 0; i < ControlReader::kMaxQueued; ++i) EXPECT_TRUE(reader_->NextCommand().ok());
  EXPECT_THAT(reader_->NextCommand().error().message, HasSubstr("more than 16 commands"));
}

TEST_F(ControlReaderTest, ReportsLinesThatAreNoCommands) {
  PutJob();
  Put("{\"v\":1,\"type\":\"dance\"}\n");
  EXPECT_TRUE(reader_->ReadJob().ok());
  EXPECT_EQ(reader_->NextCommand().error().message, "command: dance: an unknown command type");
}

TEST_F(ControlReaderTest, ReportsAFirstLineThatIsNoJob) {
  PutFinish();
  EXPECT_EQ(reader_->ReadJob().error().message, "job: finish: an unknown job type");
}

TEST_F(ControlReaderTest, ReportsALineBeyondTheLimitAndStillSeesEof) {
  const std::string chunk(1 << 20, ' ');
  for (size_t sent = 0; sent <= kMaxLineBytes; sent += chunk.size()) Put(chunk);
  EXPECT_THAT(reader_->ReadJob().error().message, HasSubstr("too long"));
  control_.Reset();
  gone_.get_future().wait();
}

TEST(ControlReaderDeathTest, EndsTheProcessAtEofHoweverBusyTheWorkingThreadIs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
        ControlReader reader{UniqueFd(ends[0])};
        ::close(ends[1]);
        std::atomic<int64_t> tokens{0};
        for (;;) ++tokens;  // a generate that never ends
      },
      testing::ExitedWithCode(kExitControllerGone), "");
}

}  // namespace
}  // namespace hproc::worker
