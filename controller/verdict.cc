#include "controller/verdict.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "worker/lines.h"

namespace hproc::controller {
namespace {

constexpr size_t kMaxMessage = 400;
constexpr size_t kMaxLogLine = 200;

// "SIGSEGV"; strsignal's words are translated and vary.
std::string SignalName(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? "SIG" + std::string(name) : "signal " + std::to_string(signal);
}

// The signal that ended the process, also as a shell or a launcher in between reports it.
int SignalOf(const WorkerEnd& end) {
  if (end.signal != 0) return end.signal;
  if (end.exit_code && *end.exit_code > 128 && *end.exit_code < 128 + 65) {
    return *end.exit_code - 128;
  }
  return 0;
}

std::string HowItLeft(const WorkerEnd& end) {
  if (end.unkillable) return "does not die of SIGKILL";
  if (end.status_lost) return "exit status lost: another part of the program reaps children";
  if (end.signal != 0) return "ended by " + SignalName(end.signal);
  std::string text = "exit code " + std::to_string(end.exit_code.value_or(-1));
  if (SignalOf(end) != 0) text += " (" + SignalName(SignalOf(end)) + ")";
  return text;
}

bool IsCrashSignal(int signal) {
  switch (signal) {
    case SIGSEGV:
    case SIGABRT:
    case SIGBUS:
    case SIGILL:
    case SIGFPE:
    case SIGSYS:
    case SIGTRAP:
      return true;
    default:
      return false;
  }
}

// The last line of the log that says something; often the best there is to say about a crash.
std::string LastLogLine(std::string_view log) {
  while (!log.empty()) {
    const size_t start = log.rfind('\n');
    const std::string_view line = start == std::string_view::npos ? log : log.substr(start + 1);
    if (line.find_first_not_of(" \t\r\n") != std::string_view::npos) {
      return worker::OneLine(line, kMaxLogLine);
    }
    if (start == std::string_view::npos) break;
    log = log.substr(0, start);
  }
  return {};
}

Reason ReasonOf(worker::ErrorKind kind) {
  switch (kind) {
    case worker::ErrorKind::kBadJob:  // refused like a command line: the next worker would refuse it, too
      return Reason::kProtocolError;
    case worker::ErrorKind::kBadCheckpoint:
    case worker::ErrorKind::kLoaderFault:
      return Reason::kLoaderFault;
    case worker::ErrorKind::kContaminated:
      return Reason::kContaminated;
    case worker::ErrorKind::kHostOutOfMemory:
      return Reason::kHostOutOfMemory;
    case worker::ErrorKind::kDeviceLost:
      return Reason::kDeviceLost;
    case worker::ErrorKind::kRankLost:  // where no other rank explains itself: nothing moves
      return Reason::kHang;
    case worker::ErrorKind::kInternal:  // a sticky device error among them
      return Reason::kCrash;
  }
  return Reason::kCrash;
}

RunVerdict Failed(const WorkerEnd& end, Reason reason, std::string message) {
  RunVerdict run;
  run.state = TrialState::kFailed;
  run.verdict.reason = reason;
  run.verdict.phase = std::string(worker::PhaseName(end.record.phase));
  run.verdict.message = worker::OneLine(message, kMaxMessage);
  return run;
}

// With the last words of the process, for ends that nobody explains.
RunVerdict Unexplained(const WorkerEnd& end, Reason reason, std::string message) {
  const std::string last_line = LastLogLine(end.log_tail);
  if (!last_line.empty()) message += "; last line of its log: " + last_line;
  return Failed(end, reason, std::move(message));
}

RunVerdict OutOfMemory(const worker::OutOfMemoryEvent& oom) {
  RunVerdict run;
  run.state = TrialState::kInfeasible;
  run.verdict.reason = Reason::kOutOfMemory;
  run.verdict.phase = std::string(worker::PhaseName(oom.phase));
  run.verdict.device = oom.device;
  // An allocator may refuse although enough is free, in pieces.
  run.verdict.short_bytes = std::max<int64_t>(oom.requested_bytes - oom.available_bytes, 0);
  // A driver that refuses names no bytes.
  const std::string bytes = oom.requested_bytes == 0 ? ""
                                                     : ": " + std::to_string(oom.requested_bytes) + " bytes asked for, " +
                                                           std::to_string(oom.available_bytes) + " available";
  run.verdict.message = worker::OneLine(oom.what + bytes, kMaxMessage);
  return run;
}

RunVerdict EndedByUs(const WorkerEnd& end) {
  const std::string message = end.kill_detail + "; " + HowItLeft(end);
  switch (end.kill_cause) {
    case KillCause::kSilent:
    case KillCause::kFrozen:
      return Unexplained(end, Reason::kHang, message);
    case KillCause::kDeadline:
      return Unexplained(end, Reason::kTimeout, message);
    case KillCause::kStopped: {
      RunVerdict run = Failed(end, Reason::kInterrupted, end.kill_detail);
      run.state.reset();
      return run;
    }
    case KillCause::kProtocolError:
    case KillCause::kNone:
      break;
  }
  return Failed(end, Reason::kProtocolError, end.kill_detail);
}

RunVerdict Killed(const WorkerEnd& end) {
  switch (end.oom_kills) {
    case OomKills::kSome:
      return Failed(end, Reason::kHostOutOfMemory,
                    "SIGKILL, and the kernel's OOM killer struck in this cgroup meanwhile");
    case OomKills::kNone:
      return Unexplained(end, Reason::kKilled,
                         "SIGKILL from elsewhere; not the kernel's OOM killer");
    case OomKills::kUnknown:
      break;
  }
  return Unexplained(end, Reason::kKilled, "SIGKILL, cause unknown");
}

RunVerdict ExitedWithoutAWord(const WorkerEnd& end) {
  switch (*end.exit_code) {
    case worker::kExitOk:
      return Unexplained(end, Reason::kProtocolError, "exit code 0 without result:exit");
    case worker::kExitUsage:
      return Unexplained(end, Reason::kProtocolError, "exit code 2: it refused its command line");
    case worker::kExitReported:
      return Unexplained(end, Reason::kProtocolError, "exit code 4 without an oom or error event");
    case worker::kExitControllerGone:
      return Unexplained(end, Reason::kProtocolError,
                         "exit code 5: it took the controller for gone, which is here");
    default:
      return Unexplained(end, Reason::kCrash, HowItLeft(end));
  }
}

struct JobState {
  std::string_view state;
  Reason reason;
  std::string_view words;
};

// Slurm's words for a job that did not end by itself (squeue(1), JOB STATE CODES), and ours.
constexpr JobState kJobStates[] = {
    {"CANCELLED", Reason::kKilled, "the job was cancelled"},
    {"PREEMPTED", Reason::kKilled, "the job was preempted by another"},
    {"REVOKED", Reason::kKilled, "the job was taken over by another cluster"},
    {"PENDING", Reason::kKilled, "the job was requeued"},
    {"REQUEUED", Reason::kKilled, "the job was requeued"},
    {"REQUEUE_FED", Reason::kKilled, "the job was requeued"},
    {"REQUEUE_HOLD", Reason::kKilled, "the job was requeued"},
    {"SPECIAL_EXIT", Reason::kKilled, "the job was requeued"},
    {"TIMEOUT", Reason::kTimeout, "the job's time limit is over"},
    {"DEADLINE", Reason::kTimeout, "the job's deadline is over"},
    {"OUT_OF_MEMORY", Reason::kHostOutOfMemory, "the job used more host memory than it asked for"},
    {"NODE_FAIL", Reason::kNodeLost, "the node failed"},
    {"BOOT_FAIL", Reason::kNodeLost, "the node did not boot"},
    {kJobLost, Reason::kNodeLost, "the connection to the worker was lost"},
    {kJobNotHeard, Reason::kNodeLost, "the worker could not reach the controller"},
    {kJobNotLaunched, Reason::kNotLaunched, "Slurm did not run the job"},
};

// What the scheduler says of a worker that left no word of its own.
std::optional<RunVerdict> OfJob(const WorkerEnd& end) {
  if (!end.launch) return std::nullopt;
  const auto* known = std::ranges::find(kJobStates, end.launch->state, &JobState::state);
  if (known == std::end(kJobStates)) return std::nullopt;
  if (end.kill_cause != KillCause::kNone && known->reason != Reason::kNodeLost) return std::nullopt;  // our own doing
  std::string message(known->words);
  if (!end.launch->job.empty()) message += ": job " + end.launch->job;
  if (!end.launch->node.empty()) message += " on " + end.launch->node;
  if (!end.launch->message.empty()) message += ": " + end.launch->message;
  return Failed(end, known->reason, message);
}

RunVerdict JudgeRun(const WorkerEnd& end) {
  const RunRecord& record = end.record;
  if (end.kill_cause == KillCause::kProtocolError) return EndedByUs(end);
  if (record.oom) return OutOfMemory(*record.oom);
  if (record.error) return Failed(end, ReasonOf(record.error->kind), record.error->message);
  if (std::optional<RunVerdict> verdict = OfJob(end)) return *std::move(verdict);
  if (end.unkillable) {
    return Failed(
        end, Reason::kDeviceLost,
        end.kill_detail + "; it does not die of SIGKILL: stuck in the kernel or a driver");
  }
  const int signal = SignalOf(end);
  if (IsCrashSignal(signal)) return Unexplained(end, Reason::kCrash, HowItLeft(end));
  if (record.exit_announced && end.exit_code == worker::kExitOk) return {};
  // Our own SIGKILL, or what the worker made of EOF or SIGTERM. A SIGKILL that we had not sent yet
  // is another's.
  if (end.kill_cause != KillCause::kNone && (signal != SIGKILL || end.sigkill_sent)) {
    return EndedByUs(end);
  }
  if (end.status_lost) return Failed(end, Reason::kCrash, HowItLeft(end));
  if (signal == SIGKILL) return Killed(end);
  if (signal != 0) return Unexplained(end, Reason::kKilled, HowItLeft(end) + " from elsewhere");
  return ExitedWithoutAWord(end);
}

}  // namespace

RunVerdict Judge(const WorkerEnd& end) {
  RunVerdict run = JudgeRun(end);
  // So that a further attempt can be made elsewhere.
  if (run.state == TrialState::kFailed && end.launch && run.verdict.device.empty()) run.verdict.device = end.launch->node;
  // The scheduler's words name it already.
  if (IsFault(run.verdict.reason) && end.launch) BlameNode(run.verdict, end.launch->node);
  return run;
}

void BlameNode(Verdict& verdict, const std::string& node) {
  if (node.empty()) return;
  if (verdict.device.empty()) verdict.device = node;
  verdict.message += " (on " + node + ")";
}

void PastRuns::Add(Reason reason) {
  if (reason == Reason::kNone || reason == Reason::kInterrupted) return;
  ++(reason == Reason::kKilled ? kills : IsFault(reason) ? faults : failures);
}

bool IsFault(Reason reason) {
  return reason == Reason::kLoaderFault || reason == Reason::kProtocolError || reason == Reason::kDeviceLost;
}

bool IsTriedAgain(Reason reason, const PastRuns& before) {
  switch (reason) {
    case Reason::kCrash:
    case Reason::kHang:
    case Reason::kTimeout:
    case Reason::kContaminated:
    case Reason::kNodeLost:
    case Reason::kNotLaunched:
    case Reason::kHostOutOfMemory:
      return before.failures == 0;
    case Reason::kKilled:
      return before.kills + 1 < kMostKills;
    case Reason::kLoaderFault:
    case Reason::kProtocolError:
    case Reason::kDeviceLost:
      return before.is_launched && before.faults == 0;
    case Reason::kNone:
    case Reason::kOutOfMemory:
    case Reason::kGarbageOutput:
    case Reason::kInterrupted:
      return false;
  }
  return false;
}

}  // namespace hproc::controller
