// StudyReader: a study file that others write, read again only when it has changed.
//
// The file may not be there yet (no study so far), and may come, grow and be written by a tune meanwhile. Opened for reading
// only: the study file's one writer is the tune.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "controller/plan_space.h"
#include "controller/store.h"
#include "controller/study.h"

namespace hproc::web {

// A study as it was at one moment. Immutable but for the plane, which remembers what it resolved.
struct StudySnapshot {
  controller::Study study;
  std::vector<controller::Trial> trials;  // by number; without their plans (plan.plan_json is empty)

  // Calls `body(const PlanSpace&)` with the plane, one thread at a time; an error where the study was not measured yet or
  // its rate table cannot be read.
  template <typename Body>
  auto WithSpace(Body body) const -> Result<decltype(body(std::declval<const controller::PlanSpace&>()))> {
    if (!plane->space.ok()) return plane->space.error();
    const std::scoped_lock lock(plane->mutex);
    return body(**plane->space);
  }

  struct Plane {
    Result<std::unique_ptr<controller::PlanSpace>> space = Error{"not read"};
    std::mutex mutex;
  };
  std::shared_ptr<Plane> plane;
};

// What tells one content of a file from the next: which file it is, its size, when it was written. The clock of files ticks
// every few milliseconds, and two writes within one tick may look alike: a stamp taken so soon after a write that another
// may follow unseen is not settled.
struct FileStamp {
  std::string text;     // "-" where there is no file
  bool settled = true;
};
FileStamp StampOf(const std::filesystem::path& file);

// Thread-safe.
class StudyReader {
 public:
  explicit StudyReader(std::filesystem::path db) : db_(std::move(db)) {}

  // None where there is no study file yet.
  Result<std::vector<std::shared_ptr<const StudySnapshot>>> All();
  // Null where there is no such study.
  Result<std::shared_ptr<const StudySnapshot>> Find(int64_t study_id);
  // The store behind it, for what a snapshot does not hold. Null where there is no file yet.
  Result<std::shared_ptr<controller::Store>> Store();

  // Of the file and its write-ahead log.
  FileStamp Stamp() const;
  const std::filesystem::path& db() const { return db_; }

 private:
  Result<void> Refresh();  // with the lock held

  const std::filesystem::path db_;
  std::mutex mutex_;
  std::shared_ptr<controller::Store> store_;
  std::string stamp_;  // of what is kept; empty: may have changed already
  std::vector<std::shared_ptr<const StudySnapshot>> snapshots_;
  std::map<int64_t, std::pair<std::string, std::shared_ptr<StudySnapshot::Plane>>> planes_;  // with the measure it is of
};

}  // namespace hproc::web
