// LiveFeed: turns what a study file and its journal show into events for the hub, from a thread of its own.
//
// The journal's lines go on as they are, under their own type (controller/tune_journal.h). Two events are the feed's own:
// `changed` {}, after the study file was written, and `running` {running, pid, study_id}, whenever somebody takes or
// leaves the study file's lock. A `run` {} event comes before the lines of a new journal.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <thread>

#include "controller/tune_journal.h"
#include "web/event_hub.h"
#include "web/study_reader.h"

namespace hproc::web {

class LiveFeed {
 public:
  // Both outlive the feed.
  LiveFeed(const StudyReader& reader, EventHub& hub);
  ~LiveFeed() = default;  // ends the thread

  // The study that the last journal is about; 0 before it said so. Of a run that is over, too.
  int64_t study_id() const { return study_id_; }

  static constexpr std::chrono::milliseconds kPeriod{100};

 private:
  void Run(const std::stop_token& ending);
  void PublishLine(std::string line);

  const StudyReader& reader_;
  EventHub& hub_;
  controller::TuneJournalReader journal_;
  std::atomic<int64_t> study_id_{0};
  std::jthread thread_;  // last: it uses the rest
};

}  // namespace hproc::web
