#include "web/study_reader.h"

#include <sys/stat.h>
#include <time.h>

#include "controller/tuner.h"

namespace hproc::web {
FileStamp StampOf(const std::filesystem::path& file) {
  constexpr int64_t kSettledNs = 50'000'000;  // several ticks, at 100 a second
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return {"-", true};
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const int64_t age_ns = (now.tv_sec - info.st_mtim.tv_sec) * 1'000'000'000 + (now.tv_nsec - info.st_mtim.tv_nsec);
  return {std::to_string(info.st_dev) + "." + std::to_string(info.st_ino) + "." + std::to_string(info.st_size) + "." +
              std::to_string(info.st_mtim.tv_sec) + "." + std::to_string(info.st_mtim.tv_nsec),
          age_ns < 0 || age_ns > kSettledNs};
}

// The write-ahead log takes every commit, and is folded into the file at times.
FileStamp StudyReader::Stamp() const {
  std::filesystem::path log = db_;
  log += "-wal";
  const FileStamp of_file = StampOf(db_);
  const FileStamp of_log = StampOf(log);
  return {of_file.text + "," + of_log.text, of_file.settled && of_log.settled};
}

Result<void> StudyReader::Refresh() {
  const FileStamp stamp = Stamp();
  if (stamp.text == stamp_) return Ok();
  std::error_code code;
  if (!std::filesystem::exists(db_, code)) {
    store_.reset();
    snapshots_.clear();
    planes_.clear();
    return Ok();
  }
  if (!store_) {
    struct stat info {};
    if (::stat(db_.c_str(), &info) == 0 && info.st_size == 0) {  // just being made
      snapshots_.clear();
      return Ok();
    }
    Result<std::unique_ptr<controller::Store>> opened = OpenSqliteStore(db_, controller::OpenMode::kReadOnly);
    if (!opened.ok()) return opened.error();
    store_ = *std::move(opened);
  }
  Result<std::vector<controller::Study>> studies = store_->ListStudies();
  if (!studies.ok()) {
    store_.reset();  // another file may have taken its place
    return studies.error();
  }
  std::vector<std::shared_ptr<const StudySnapshot>> snapshots;
  for (controller::Study& study : *studies) {
    auto snapshot = std::make_shared<StudySnapshot>();
    Result<std::vector<controller::Trial>> trials = store_->ListTrials(study.id, controller::Plans::kLeftOut);
    if (!trials.ok()) return trials.error();
    snapshot->trials = *std::move(trials);
    auto& [measure, plane] = planes_[study.id];
    if (!plane || !plane->space.ok() || measure != study.measure_json) {
      measure = study.measure_json;
      plane = std::make_shared<StudySnapshot::Plane>();
      plane->space = controller::SpaceOf(study);
    }
    snapshot->plane = plane;
    snapshot->study = std::move(study);
    snapshots.push_back(std::move(snapshot));
  }
  snapshots_ = std::move(snapshots);
  stamp_ = stamp.settled ? stamp.text : std::string();
  return Ok();
}

Result<std::vector<std::shared_ptr<const StudySnapshot>>> StudyReader::All() {
  const std::scoped_lock lock(mutex_);
  if (Result<void> fresh = Refresh(); !fresh.ok()) return fresh.error();
  return snapshots_;
}

Result<std::shared_ptr<const StudySnapshot>> StudyReader::Find(int64_t study_id) {
  Result<std::vector<std::shared_ptr<const StudySnapshot>>> all = All();
  if (!all.ok()) return all.error();
  for (std::shared_ptr<const StudySnapshot>& snapshot : *all) {
    if (snapshot->study.id == study_id) return std::move(snapshot);
  }
  return std::shared_ptr<const StudySnapshot>();
}

Result<std::shared_ptr<controller::Store>> StudyReader::Store() {
  const std::scoped_lock lock(mutex_);
  if (Result<void> fresh = Refresh(); !fresh.ok()) return fresh.error();
  return store_;
}

}  // namespace hproc::web
