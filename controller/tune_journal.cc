#include "controller/tune_journal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>

#include "controller/study_json.h"

namespace hproc::controller {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxLineBytes = size_t{1} << 20;

Json TrialJson(int trial) { return trial == kNoTrial ? Json(nullptr) : Json(trial); }
Json Finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

std::filesystem::path EventsFileOf(const std::filesystem::path& db) {
  std::filesystem::path file = db;
  file += ".events";
  return file;
}

// ---- writing -----------------------------------------------------------------------------------------------------------

// A new file rather than the old one cut to nothing: who reads the old one reads it to its end.
TuneJournal::TuneJournal(const std::filesystem::path& file, Clock clock) : clock_(std::move(clock)) {
  ::unlink(file.c_str());
  file_.Reset(::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644));
}

template <typename Fields>
void TuneJournal::Write(const char* type, Fields fields) {
  if (!file_) return;
  Json line = {{"type", type}, {"utc", FormatUtc(clock_())}};
  line.update(fields);
  std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace);
  text += '\n';
  // Half a line on a full disk would garble the next: no more after the first error.
  ssize_t written = -1;
  do {
    written = ::write(file_.get(), text.data(), text.size());
  } while (written < 0 && errno == EINTR);
  if (written != static_cast<ssize_t>(text.size())) return file_.Reset();
  bytes_ += written;
}

bool TuneJournal::IsDue(int trial, bool last) {
  if (bytes_ > kMaxJournalBytes) return false;
  const auto now = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point& next = in_flight_[trial].next;
  if (!last && now < next) return false;
  next = now + kJournalPeriod;
  return true;
}

void TuneJournal::OnMeasureStart(const std::string& model_dir) { Write("measure_start", Json{{"model", model_dir}}); }

void TuneJournal::OnMeasureEnd(bool from_cache, double seconds) {
  Write("measure_end", Json{{"reused", from_cache}, {"seconds", Finite(seconds)}});
}

void TuneJournal::OnStudyStart(const Study& study) {
  Write("study_start", Json{{"study", study.spec.name}, {"study_id", study.id}});
}

void TuneJournal::OnStudyEnd(const Study& study, bool interrupted) {
  Write("study_end", Json{{"study", study.spec.name}, {"study_id", study.id}, {"interrupted", interrupted}});
}

void TuneJournal::OnTrialStart(const Trial& trial, int attempt) {
  in_flight_[trial.number] = {};
  Write("trial_start", Json{{"study_id", trial.study_id},
                            {"trial", trial.number},
                            {"attempt", attempt},
                            {"kind", TrialKindName(trial.plan.kind)},
                            {"purpose", trial.plan.purpose},
                            {"strict", Finite(trial.plan.floors.strict)},
                            {"lazy", Finite(trial.plan.floors.lazy)},
                            {"bits_per_weight", Finite(trial.plan.bits_per_weight)},
                            {"predicted_bytes", trial.plan.predicted_bytes}});
}

void TuneJournal::OnQueue(int trial, const LaunchNote& note) {
  Write("queue", Json{{"trial", TrialJson(trial)},
                      {"state", note.kind == LaunchNote::Kind::kPending ? "pending" : "started"},
                      {"job", note.job},
                      {"node", note.node},
                      {"reason", note.reason}});
}

void TuneJournal::OnPhase(int trial, const worker::PhaseEvent& phase) {
  Write("phase", Json{{"trial", TrialJson(trial)}, {"phase", PhaseName(phase.phase)}, {"begin", phase.begin}, {"seconds", Finite(phase.seconds)}});
}

void TuneJournal::OnProgress(int trial, const worker::ProgressEvent& progress) {
  if (!IsDue(trial, progress.done >= progress.total)) return;
  Write("progress", Json{{"trial", TrialJson(trial)},
                         {"phase", PhaseName(progress.phase)},
                         {"done", progress.done},
                         {"total", progress.total},
                         {"unit", progress.unit}});
}

void TuneJournal::OnMemory(int trial, const worker::MemoryEvent& memory) {
  Write("memory", Json{{"trial", TrialJson(trial)},
                       {"device", memory.device},
                       {"live_bytes", memory.live_bytes},
                       {"peak_bytes", memory.peak_bytes},
                       {"cap_bytes", memory.cap_bytes}});
}

void TuneJournal::OnAnswer(int trial, const Answer& answer) {
  in_flight_[trial].generated_tokens += answer.generated_tokens;
}

void TuneJournal::OnQuestions(int trial, int answered, int questions, int correct) {
  if (!IsDue(trial, answered == questions)) return;
  Write("questions", Json{{"trial", TrialJson(trial)},
                          {"answered", answered},
                          {"questions", questions},
                          {"correct", correct},
                          {"generated_tokens", in_flight_[trial].generated_tokens}});
}

void TuneJournal::OnAttemptEnd(const Trial& trial, int attempt, const Verdict& verdict, bool again) {
  Write("attempt_end", Json{{"trial", trial.number},
                            {"attempt", attempt},
                            {"again", again},
                            {"verdict", Json::parse(ToJson(verdict))}});
}

void TuneJournal::OnTrialEnd(const Trial& trial) {
  in_flight_.erase(trial.number);
  Write("trial_end", Json{{"study_id", trial.study_id},
                          {"trial", trial.number},
                          {"state", TrialStateName(trial.state)},
                          {"verdict", Json::parse(ToJson(trial.verdict))}});
}

void TuneJournal::OnNote(const std::string& line) { Write("note", Json{{"line", line}}); }

// ---- reading -----------------------------------------------------------------------------------------------------------

bool TuneJournalReader::Open() {
  file_.Reset(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  rest_.clear();
  skipping_ = false;
  struct stat info {};
  if (file_ && (::fstat(file_.get(), &info) != 0 || !S_ISREG(info.st_mode))) file_.Reset();
  return static_cast<bool>(file_);
}

bool TuneJournalReader::HasSuccessor() const {
  struct stat named {};
  struct stat opened {};
  if (::lstat(path_.c_str(), &named) != 0 || ::fstat(file_.get(), &opened) != 0) return false;
  return named.st_ino != opened.st_ino || named.st_dev != opened.st_dev;
}

TuneJournalReader::Batch TuneJournalReader::Read(size_t max_bytes) {
  Batch batch;
  if (!file_) {
    if (!Open()) return batch;
    batch.new_run = 0;
  }
  size_t taken = 0;
  std::string buffer(size_t{64} << 10, '\0');
  while (taken < max_bytes) {
    // Looked at before the read: what the old run wrote is all there once a new one has begun.
    const bool superseded = HasSuccessor();
    const ssize_t count = ::read(file_.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      if (!superseded || batch.new_run || !Open()) break;
      batch.new_run = batch.lines.size();
      continue;
    }
    taken += static_cast<size_t>(count);
    for (std::string_view piece(buffer.data(), static_cast<size_t>(count)); !piece.empty();) {
      const size_t end = piece.find('\n');
      const bool whole = end != std::string_view::npos;
      if (!skipping_) rest_ += piece.substr(0, end);
      if (rest_.size() > kMaxLineBytes) {
        skipping_ = true;
        rest_.clear();
      }
      if (whole) {
        if (!skipping_) batch.lines.push_back(std::move(rest_));
        rest_.clear();
        skipping_ = false;
      }
      piece.remove_prefix(whole ? end + 1 : piece.size());
    }
  }
  return batch;
}

}  // namespace hproc::controller
