// Every row of the table in verdict.h, from the facts alone; verdict_process_test.cc has them from
// real processes.
#include "controller/verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>

namespace hproc::controller {
namespace {

using testing::HasSubstr;
using testing::Not;
using worker::Phase;

WorkerEnd Exited(int code) {
  WorkerEnd end;
  end.exit_code = code;
  end.record.phase = Phase::kLoad;
  return end;
}

WorkerEnd Signalled(int signal) {
  WorkerEnd end;
  end.signal = signal;
  end.record.phase = Phase::kLoad;
  return end;
}

WorkerEnd EndedByUs(WorkerEnd end, KillCause cause) {
  end.kill_cause = cause;
  end.kill_detail = "why we ended it";
  end.sigkill_sent = end.signal == SIGKILL;
  return end;
}

WorkerEnd WithOomKills(WorkerEnd end, OomKills kills) {
  end.oom_kills = kills;
  return end;
}

WorkerEnd WithOom(WorkerEnd end) {
  end.record.oom = worker::OutOfMemoryEvent{Phase::kCache, "cuda:0", 1000, 400, "kv.3"};
  return end;
}

WorkerEnd WithError(worker::ErrorKind kind, WorkerEnd end = Exited(worker::kExitReported)) {
  end.record.error = worker::ErrorEvent{kind, "what it said"};
  return end;
}

WorkerEnd Announced(WorkerEnd end) {
  end.record.exit_announced = true;
  return end;
}

WorkerEnd Unkillable(KillCause cause) {
  WorkerEnd end = EndedByUs({}, cause);
  end.unkillable = true;
  end.sigkill_sent = true;
  return end;
}

struct Row {
  const char* name;
  WorkerEnd end;
  Reason reason;
  const char* message;
};

TEST(Judge, GivesEveryRowOfTheTable) {
  const Row rows[] = {
      {"as reported", Announced(Exited(0)), Reason::kNone, ""},
      {"as reported, while being stopped", EndedByUs(Announced(Exited(0)), KillCause::kStopped),
       Reason::kNone, ""},
      {"breaks the protocol", EndedByUs(Exited(5), KillCause::kProtocolError),
       Reason::kProtocolError, "why we ended"},
      {"breaks the protocol after oom", EndedByUs(WithOom(Exited(4)), KillCause::kProtocolError),
       Reason::kProtocolError, "why we ended"},
      {"breaks the protocol and crashes", EndedByUs(Signalled(SIGSEGV), KillCause::kProtocolError),
       Reason::kProtocolError, "why we ended"},
      {"oom", WithOom(Exited(4)), Reason::kOutOfMemory,
       "kv.3: 1000 bytes asked for, 400 available"},
      {"oom, crash on the way out", WithOom(Signalled(SIGSEGV)), Reason::kOutOfMemory, "kv.3"},
      {"oom, hang on the way out", WithOom(EndedByUs(Signalled(SIGKILL), KillCause::kDeadline)),
       Reason::kOutOfMemory, "kv.3"},
      {"error: job", WithError(worker::ErrorKind::kBadJob), Reason::kProtocolError, "what it said"},
      {"error: checkpoint", WithError(worker::ErrorKind::kBadCheckpoint), Reason::kLoaderFault,
       "what it said"},
      {"error: loader", WithError(worker::ErrorKind::kLoaderFault), Reason::kLoaderFault,
       "what it said"},
      {"error: host", WithError(worker::ErrorKind::kHostOutOfMemory), Reason::kHostOutOfMemory,
       "what it said"},
      {"error: neighbour", WithError(worker::ErrorKind::kContaminated), Reason::kContaminated,
       "what it said"},
      {"error: device", WithError(worker::ErrorKind::kDeviceLost), Reason::kDeviceLost,
       "what it said"},
      {"error: internal", WithError(worker::ErrorKind::kInternal), Reason::kCrash, "what it said"},
      {"error, then a crash", WithError(worker::ErrorKind::kDeviceLost, Signalled(SIGABRT)),
       Reason::kDeviceLost, "what it said"},
      {"outlives SIGKILL", Unkillable(KillCause::kFrozen), Reason::kDeviceLost,
       "does not die of SIGKILL"},
      {"SIGSEGV", Signalled(SIGSEGV), Reason::kCrash, "ended by SIGSEGV"},
      {"SIGABRT", Signalled(SIGABRT), Reason::kCrash, "ended by SIGABRT"},
      {"SIGBUS", Signalled(SIGBUS), Reason::kCrash, "ended by SIGBUS"},
      {"SIGILL", Signalled(SIGILL), Reason::kCrash, "ended by SIGILL"},
      {"SIGSEGV behind a shell", Exited(128 + SIGSEGV), Reason::kCrash, "exit code 139 (SIGSEGV)"},
      {"SIGSEGV after result:exit", Announced(Signalled(SIGSEGV)), Reason::kCrash, "SIGSEGV"},
      {"dumps core while we wait", EndedByUs(Signalled(SIGABRT), KillCause::kSilent),
       Reason::kCrash, "SIGABRT"},
      {"silent", EndedByUs(Signalled(SIGKILL), KillCause::kSilent), Reason::kHang,
       "why we ended it; ended by SIGKILL"},
      {"frozen", EndedByUs(Exited(5), KillCause::kFrozen), Reason::kHang,
       "why we ended it; exit code 5"},
      {"frozen, ends at SIGTERM", EndedByUs(Signalled(SIGTERM), KillCause::kFrozen), Reason::kHang,
       "SIGTERM"},
      {"over the limit", EndedByUs(Exited(5), KillCause::kDeadline), Reason::kTimeout,
       "why we ended it"},
      {"over the limit, SIGKILL, oom_kill rose",
       WithOomKills(EndedByUs(Signalled(SIGKILL), KillCause::kDeadline), OomKills::kSome),
       Reason::kTimeout, "why we ended it"},
      {"stopped", EndedByUs(Exited(5), KillCause::kStopped), Reason::kInterrupted,
       "why we ended it"},
      {"exit lingers", EndedByUs(Announced(Signalled(SIGKILL)), KillCause::kDeadline),
       Reason::kTimeout, "why"},
      {"SIGKILL, oom_kill rose", WithOomKills(Signalled(SIGKILL), OomKills::kSome),
       Reason::kHostOutOfMemory, "OOM killer struck"},
      {"SIGKILL before ours, oom_kill rose",
       [] {
         WorkerEnd end = EndedByUs(Signalled(SIGKILL), KillCause::kSilent);
         end.sigkill_sent = false;
         return WithOomKills(end, OomKills::kSome);
       }(),
       Reason::kHostOutOfMemory, "OOM killer struck"},
      {"exit 137, oom_kill rose", WithOomKills(Exited(137), OomKills::kSome),
       Reason::kHostOutOfMemory, "OOM killer"},
      {"SIGKILL, oom_kill did not rise", WithOomKills(Signalled(SIGKILL), OomKills::kNone),
       Reason::kKilled, "SIGKILL from elsewhere; not the kernel's OOM killer"},
      {"SIGKILL, no counter", Signalled(SIGKILL), Reason::kKilled, "SIGKILL, cause unknown"},
      {"exit 137, no counter", Exited(137), Reason::kKilled, "SIGKILL, cause unknown"},
      {"SIGTERM from elsewhere", Signalled(SIGTERM), Reason::kKilled,
       "ended by SIGTERM from elsewhere"},
      {"exit 0 without a word", Exited(0), Reason::kProtocolError,
       "exit code 0 without result:exit"},
      {"exit 2", Exited(2), Reason::kProtocolError, "refused its command line"},
      {"exit 4 without a word", Exited(4), Reason::kProtocolError, "without an oom or error event"},
      {"exit 5 while we are here", Exited(5), Reason::kProtocolError,
       "took the controller for gone"},
      {"another exit code", Exited(1), Reason::kCrash, "exit code 1"},
      {"announced, yet another exit code", Announced(Exited(1)), Reason::kCrash, "exit code 1"},
      {"status lost",
       [] {
         WorkerEnd end;
         end.status_lost = true;
         return end;
       }(),
       Reason::kCrash, "exit status lost"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const RunVerdict run = Judge(row.end);
    EXPECT_EQ(run.verdict.reason, row.reason) << run.verdict.message;
    EXPECT_THAT(run.verdict.message, HasSubstr(row.message));
    switch (row.reason) {
      case Reason::kNone:
      case Reason::kInterrupted:
        EXPECT_EQ(run.state, std::nullopt);
        break;
      case Reason::kOutOfMemory:
        EXPECT_EQ(run.state, TrialState::kInfeasible);
        break;
      default:
        EXPECT_EQ(run.state, TrialState::kFailed);
        break;
    }
  }
}

TEST(Judge, SaysWhereMemoryRanOutAndHowMuchWasMissing) {
  const Verdict verdict = Judge(WithOom(Exited(4))).verdict;
  EXPECT_EQ(verdict.phase, "cache");
  EXPECT_EQ(verdict.device, "cuda:0");
  EXPECT_EQ(verdict.short_bytes, 600);
}

TEST(Judge, CallsNothingMissingWhereMemoryWasFreeInPieces) {
  WorkerEnd end = WithOom(Exited(4));
  end.record.oom->available_bytes = 5000;
  EXPECT_EQ(Judge(end).verdict.short_bytes, 0);
}

TEST(Judge, NamesThePhaseOfAFailure) {
  EXPECT_EQ(Judge(Signalled(SIGSEGV)).verdict.phase, "load");
  EXPECT_EQ(Judge(Announced(Exited(0))).verdict.phase, "");
}

TEST(Judge, QuotesTheLastWordsOfACrashAsOneSafeLine) {
  WorkerEnd end = Exited(1);
  end.log_tail = "earlier\n\x1b[31mterminate called\xff after\tthrowing\n  \n\n";
  const std::string message = Judge(end).verdict.message;
  EXPECT_THAT(message, HasSubstr("last line of its log:  [31mterminate called? after throwing"));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  end.log_tail = "\n \n";
  EXPECT_THAT(Judge(end).verdict.message, Not(HasSubstr("last line")));
  end.log_tail = std::string(1 << 20, 'x');
  EXPECT_LT(Judge(end).verdict.message.size(), 500u);
}

TEST(IsTriedAgain, WhatMayPassOnceMore) {
  for (const Reason reason : {Reason::kCrash, Reason::kHang, Reason::kTimeout, Reason::kContaminated, Reason::kHostOutOfMemory}) {
    EXPECT_TRUE(IsTriedAgain(reason, {.kills = 2})) << "kills do not count";
    EXPECT_FALSE(IsTriedAgain(reason, {.failures = 1}));
  }
}

TEST(IsTriedAgain, AKilledRunUntilTheThirdKill) {
  EXPECT_TRUE(IsTriedAgain(Reason::kKilled, {.failures = 5}));
  EXPECT_TRUE(IsTriedAgain(Reason::kKilled, {.kills = 1}));
  EXPECT_FALSE(IsTriedAgain(Reason::kKilled, {.kills = 2}));
}

TEST(IsTriedAgain, NoResultAndNoLie) {
  for (const Reason reason : {Reason::kNone, Reason::kOutOfMemory, Reason::kGarbageOutput, Reason::kLoaderFault, Reason::kProtocolError,
                              Reason::kDeviceLost, Reason::kInterrupted}) {
    EXPECT_FALSE(IsTriedAgain(reason, {}));
  }
}

TEST(IsTriedAgain, AFaultOnceWhereItMayBeTheMachines) {
  for (const Reason reason : {Reason::kLoaderFault, Reason::kProtocolError, Reason::kDeviceLost}) {
    EXPECT_TRUE(IsTriedAgain(reason, {.is_launched = true}));
    EXPECT_TRUE(IsTriedAgain(reason, {.failures = 1, .is_launched = true})) << "that was another matter";
    EXPECT_FALSE(IsTriedAgain(reason, {.faults = 1, .is_launched = true}));
  }
  for (const Reason reason : {Reason::kOutOfMemory, Reason::kGarbageOutput, Reason::kInterrupted}) {
    EXPECT_FALSE(IsTriedAgain(reason, {.is_launched = true}));
  }
}

TEST(PastRuns, AreCountedByWhatTheySay) {
  PastRuns runs;
  for (const Reason reason : {Reason::kNone, Reason::kInterrupted, Reason::kKilled, Reason::kKilled, Reason::kNodeLost, Reason::kLoaderFault,
                              Reason::kHang, Reason::kCrash}) {
    runs.Add(reason);
  }
  EXPECT_EQ(runs.kills, 2);
  EXPECT_EQ(runs.failures, 3);
  EXPECT_EQ(runs.faults, 1);
}

// ---- jobs ----

TEST(JudgeOfJobs, WhatWeEndedOurselvesIsNotTheSchedulersDoingButANodeThatFailedIs) {
  WorkerEnd end;
  end.exit_code = 0;
  end.kill_cause = KillCause::kStopped;
  end.kill_detail = "the study was interrupted";
  end.launch = LaunchEnd{.state = "CANCELLED", .job = "7", .node = "node1"};
  EXPECT_EQ(Judge(end).verdict.reason, Reason::kInterrupted);
  end.kill_cause = KillCause::kSilent;
  EXPECT_EQ(Judge(end).verdict.reason, Reason::kHang);
  end.launch->state = "NODE_FAIL";
  EXPECT_EQ(Judge(end).verdict.reason, Reason::kNodeLost);
  EXPECT_EQ(Judge(end).verdict.device, "node1");
}

TEST(JudgeOfJobs, NamesTheNodeOfAFailureAndOfNothingElse) {
  WorkerEnd end;
  end.signal = SIGSEGV;
  end.launch = LaunchEnd{.state = "FAILED", .job = "7", .node = "node1"};
  EXPECT_EQ(Judge(end).verdict.reason, Reason::kCrash);
  EXPECT_EQ(Judge(end).verdict.device, "node1");
  end.record.oom = worker::OutOfMemoryEvent{.phase = worker::Phase::kLoad, .device = "cuda:0", .requested_bytes = 2, .available_bytes = 1, .what = "x"};
  EXPECT_EQ(Judge(end).verdict.device, "cuda:0") << "a boundary, wherever it was found";
  end.record.oom.reset();
  end.launch->state = "SOME_NEW_STATE";
  EXPECT_EQ(Judge(end).verdict.reason, Reason::kCrash);
}

}  // namespace
}  // namespace hproc::controller
