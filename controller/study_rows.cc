#include "controller/study_rows.h"

#include <unordered_map>
#include <utility>

#include "controller/study_json.h"

namespace hproc::controller {
namespace {

// ---- reading -----------------------------------------------------------------------------------

// The columns of a row from left to right.
class Row {
 public:
  explicit Row(const Statement& statement) : statement_(statement) {}

  int64_t Int64() { return statement_.Int64(column_++); }
  int Int() { return statement_.Int(column_++); }
  bool Bool() { return statement_.Bool(column_++); }
  double Double() { return statement_.Double(column_++); }
  std::string Text() { return statement_.Text(column_++); }
  bool NextIsNull() const { return statement_.IsNull(column_); }
  void Skip(int columns) { column_ += columns; }

  template <typename E>
  E Name(std::optional<E> (*from_name)(std::string_view)) {
    const std::string name = Text();
    const std::optional<E> value = from_name(name);
    if (!value) throw DatabaseError("is damaged: \"" + name + "\" is no name known here");
    return *value;
  }

 private:
  const Statement& statement_;
  int column_ = 0;
};

constexpr std::string_view kSelectStudies =
    "SELECT id, spec_json, state, created_utc, outcome_json, measure_json, "
    "calibration_json FROM studies ";

Study ReadStudyRow(const Statement& statement) {
  Row row(statement);
  Study study;
  study.id = row.Int64();
  Result<StudySpec> spec = StudySpecFromJson(row.Text());
  if (!spec) {
    throw DatabaseError("is damaged: spec of study " + std::to_string(study.id) + ": " +
                        spec.error().message);
  }
  study.spec = *std::move(spec);
  study.state = row.Name(StudyStateFromName);
  study.created_utc = row.Text();
  study.outcome_json = row.Text();
  study.measure_json = row.Text();
  study.calibration_json = row.Text();
  return study;
}

Verdict ReadVerdict(Row& row) {
  Verdict verdict;
  auto& [reason, phase, device, short_bytes, message] = verdict;
  reason = row.Name(ReasonFromName);
  phase = row.Text();
  device = row.Text();
  short_bytes = row.Int64();
  message = row.Text();
  return verdict;
}

// With their plans, or with an empty text in their place.
std::string SelectTrials(Plans plans) {
  const bool whole = plans == Plans::kWhole;
  return std::string(
             "SELECT id, number, study_id, state, created_utc, finished_utc,"
             " kind, strict_floor, lazy_floor, head_floor, plan_digest, ") +
         (whole ? "plan_json" : "''") +
         ", predicted_bytes,"
         " predicted_weight_bytes, bits_per_weight, purpose,"
         " reason, phase, device, short_bytes, message,"
         " loaded_plan_digest, weight_bytes, loaded_bits_per_weight, load_seconds,"
         " memory_device, live_bytes, peak_bytes, cap_bytes,"
         " answers_total, strict_correct, flexible_correct, invalid, truncated, strict_squares,"
         " all_questions"
         " FROM trials " +
         (whole ? "JOIN trial_plans ON trial_id = id " : "");
}

Trial ReadTrialRow(const Statement& statement) {
  Row row(statement);
  Trial trial;
  trial.id = row.Int64();
  trial.number = row.Int();
  trial.study_id = row.Int64();
  trial.state = row.Name(TrialStateFromName);
  trial.created_utc = row.Text();
  trial.finished_utc = row.Text();
  trial.plan.kind = row.Name(TrialKindFromName);
  trial.plan.floors.strict = row.Double();
  trial.plan.floors.lazy = row.Double();
  trial.plan.floors.head = row.Double();
  trial.plan.plan_digest = row.Text();
  trial.plan.plan_json = row.Text();
  trial.plan.predicted_bytes = row.Int64();
  trial.plan.predicted_weight_bytes = row.Int64();
  trial.plan.bits_per_weight = row.Double();
  trial.plan.purpose = row.Text();
  trial.verdict = ReadVerdict(row);
  if (row.NextIsNull()) {
    row.Skip(4);
  } else {
    worker::LoadResult& load = trial.measured.load.emplace();
    load.plan_digest = row.Text();
    load.weight_bytes = row.Int64();
    load.bits_per_weight = row.Double();
    load.seconds = row.Double();
  }
  if (row.NextIsNull()) {
    row.Skip(4);
  } else {
    worker::MemoryEvent& memory = trial.measured.memory.emplace();
    memory.device = row.Text();
    memory.live_bytes = row.Int64();
    memory.peak_bytes = row.Int64();
    memory.cap_bytes = row.Int64();
  }
  auto& [total, strict_correct, flexible_correct, invalid, truncated, strict_by_seed, strict_squares,
         all_questions] = trial.measured.accuracy;  // strict_by_seed comes with the child rows
  total = row.Int();
  strict_correct = row.Int();
  flexible_correct = row.Int();
  invalid = row.Int();
  truncated = row.Int();
  strict_squares = row.Int64();
  all_questions = row.Bool();
  // A baseline may promise nothing.
  const bool may_be_zero = trial.plan.kind != TrialKind::kPoint;
  const auto is_floor = [&](double floor) { return floor <= 1 && (floor > 0 || (floor == 0 && may_be_zero)); };
  if (!is_floor(trial.plan.floors.strict) || !is_floor(trial.plan.floors.lazy) || !is_floor(trial.plan.floors.head)) {
    throw DatabaseError("trial " + std::to_string(trial.number) + ": a floor outside of (0, 1]");
  }
  const auto counts = [&](int part) { return part >= 0 && part <= total; };
  if (!counts(strict_correct) || !counts(flexible_correct) || !counts(invalid) || !counts(truncated)) {
    throw DatabaseError("trial " + std::to_string(trial.number) + ": more answers of a kind than answers");
  }
  return trial;
}

Attempt ReadAttemptRow(Row& row) {
  Attempt attempt;
  attempt.number = row.Int();
  attempt.started_utc = row.Text();
  attempt.ended_utc = row.Text();
  attempt.verdict = ReadVerdict(row);
  attempt.log_path = row.Text();
  return attempt;
}

// Which trials' rows a query of a table that hangs off them takes; one parameter.
constexpr std::string_view kOfStudy =
    " WHERE trial_id IN (SELECT id FROM trials WHERE study_id = ?) ";
constexpr std::string_view kOfTrial = " WHERE trial_id = ? ";

// Adds what hangs off the trials: one query a table, however many trials there are.
void ReadDetails(Database& database, std::string_view which, int64_t id,
                 std::vector<Trial>& trials) {
  std::unordered_map<int64_t, Trial*> by_id;
  for (Trial& trial : trials) by_id.emplace(trial.id, &trial);

  // `query` selects trial_id first; `add` takes the rest of the row.
  const auto for_each_row = [&](std::string query, std::string_view order, auto add) {
    Statement statement = database.Prepare(query.append(which).append(order));
    statement.Bind(id);
    while (statement.Step()) {
      Row row(statement);
      const auto found = by_id.find(row.Int64());
      if (found != by_id.end()) add(*found->second, row);
    }
  };

  for_each_row(
      "SELECT trial_id, number, started_utc, ended_utc, reason, phase, device, short_bytes,"
      " message, log_path FROM attempts",
      "ORDER BY trial_id, number",
      [](Trial& trial, Row& row) { trial.attempts.push_back(ReadAttemptRow(row)); });

  for_each_row("SELECT trial_id, source, name, bytes FROM ledger_lines",
               "ORDER BY trial_id, source, position", [](Trial& trial, Row& row) {
                 const bool measured = row.Text() == "measured";
                 if (measured && !trial.measured.memory) return;
                 auto& lines = measured ? trial.measured.memory->lines : trial.measured.predicted;
                 auto& [name, bytes] = lines.emplace_back();
                 name = row.Text();
                 bytes = row.Int64();
               });

  for_each_row("SELECT trial_id, device, live_bytes, peak_bytes, cap_bytes FROM rank_ledgers",
               "ORDER BY trial_id, rank", [](Trial& trial, Row& row) {
                 worker::MemoryEvent& memory = trial.measured.ranks.emplace_back();
                 memory.device = row.Text();
                 memory.live_bytes = row.Int64();
                 memory.peak_bytes = row.Int64();
                 memory.cap_bytes = row.Int64();
               });

  for_each_row("SELECT trial_id, rank, name, bytes FROM rank_ledger_lines",
               "ORDER BY trial_id, rank, position", [](Trial& trial, Row& row) {
                 const auto rank = static_cast<size_t>(row.Int());
                 if (rank >= trial.measured.ranks.size()) return;
                 auto& [name, bytes] = trial.measured.ranks[rank].lines.emplace_back();
                 name = row.Text();
                 bytes = row.Int64();
               });

  for_each_row(
      "SELECT trial_id, family, weights, bytes, min_cosine, mean_cosine, min_norm_ratio,"
      " max_norm_ratio FROM family_reports",
      "ORDER BY trial_id, position", [](Trial& trial, Row& row) {
        if (!trial.measured.load) return;
        auto& [family, weights, bytes, min_cosine, mean_cosine, min_norm_ratio, max_norm_ratio] =
            trial.measured.load->families.emplace_back();
        family = row.Text();
        weights = row.Int64();
        bytes = row.Int64();
        min_cosine = row.Double();
        mean_cosine = row.Double();
        min_norm_ratio = row.Double();
        max_norm_ratio = row.Double();
      });

  for_each_row("SELECT trial_id, kind, repetition, tokens, batch, seconds FROM throughput_samples",
               "ORDER BY trial_id, position", [](Trial& trial, Row& row) {
                 auto& [kind, repetition, tokens, batch, seconds] =
                     trial.measured.throughput.emplace_back();
                 kind = row.Name(evals::ThroughputKindFromName);
                 repetition = row.Int();
                 tokens = row.Int();
                 batch = row.Int();
                 seconds = row.Double();
               });

  for_each_row("SELECT trial_id, phase, seconds FROM phase_times", "ORDER BY trial_id, position",
               [](Trial& trial, Row& row) {
                 auto& [phase, seconds] = trial.measured.phase_seconds.emplace_back();
                 phase = row.Text();
                 seconds = row.Double();
               });

  for_each_row("SELECT trial_id, strict_correct FROM seed_scores", "ORDER BY trial_id, position",
               [](Trial& trial, Row& row) { trial.measured.accuracy.strict_by_seed.push_back(row.Int()); });
}

TrialHead ReadTrialHeadRow(const Statement& statement) {
  Row row(statement);
  TrialHead head;
  head.study_name = row.Text();
  head.number = row.Int();
  head.state = row.Name(TrialStateFromName);
  return head;
}

// ---- writing -----------------------------------------------------------------------------------

void InsertLedger(Database& database, int64_t trial_id, std::string_view source,
                  const std::vector<worker::LedgerLine>& lines) {
  Statement insert = database.Prepare(
      "INSERT INTO ledger_lines (trial_id, source, position, name, bytes) VALUES (?, ?, ?, ?, ?)");
  int position = 0;
  for (const auto& [name, bytes] : lines) {
    insert.Bind(trial_id, source, position++, name, bytes).Run();
  }
}

void InsertLoad(Database& database, int64_t trial_id, const worker::LoadResult& load) {
  const auto& [plan_digest, weight_bytes, bits_per_weight, load_seconds, families] = load;
  database
      .Prepare(
          "UPDATE trials SET loaded_plan_digest = ?, weight_bytes = ?, loaded_bits_per_weight = ?,"
          " load_seconds = ? WHERE id = ?")
      .Bind(plan_digest, weight_bytes, bits_per_weight, load_seconds, trial_id)
      .Run();
  Statement insert = database.Prepare(
      "INSERT INTO family_reports (trial_id, position, family, weights, bytes, min_cosine,"
      " mean_cosine, min_norm_ratio, max_norm_ratio) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)");
  int position = 0;
  for (const auto& [family, weights, bytes, min_cosine, mean_cosine, min_norm_ratio,
                    max_norm_ratio] : families) {
    insert
        .Bind(trial_id, position++, family, weights, bytes, min_cosine, mean_cosine, min_norm_ratio,
              max_norm_ratio)
        .Run();
  }
}

void InsertMemory(Database& database, int64_t trial_id, const worker::MemoryEvent& memory) {
  const auto& [device, live_bytes, peak_bytes, cap_bytes, lines] = memory;
  database
      .Prepare(
          "UPDATE trials SET memory_device = ?, live_bytes = ?, peak_bytes = ?, cap_bytes = ?"
          " WHERE id = ?")
      .Bind(device, live_bytes, peak_bytes, cap_bytes, trial_id)
      .Run();
  InsertLedger(database, trial_id, "measured", lines);
}

void InsertRanks(Database& database, int64_t trial_id, const std::vector<worker::MemoryEvent>& ranks) {
  Statement ledger = database.Prepare(
      "INSERT INTO rank_ledgers (trial_id, rank, device, live_bytes, peak_bytes, cap_bytes) VALUES (?, ?, ?, ?, ?, ?)");
  Statement line = database.Prepare(
      "INSERT INTO rank_ledger_lines (trial_id, rank, position, name, bytes) VALUES (?, ?, ?, ?, ?)");
  int rank = 0;
  for (const auto& [device, live_bytes, peak_bytes, cap_bytes, lines] : ranks) {
    ledger.Bind(trial_id, rank, device, live_bytes, peak_bytes, cap_bytes).Run();
    int position = 0;
    for (const auto& [name, bytes] : lines) line.Bind(trial_id, rank, position++, name, bytes).Run();
    ++rank;
  }
}

void InsertMeasurements(Database& database, int64_t trial_id, const TrialMeasurements& measured) {
  const auto& [load, memory, ranks, predicted, accuracy, throughput, phase_seconds] = measured;
  if (load) InsertLoad(database, trial_id, *load);
  if (memory) InsertMemory(database, trial_id, *memory);
  InsertRanks(database, trial_id, ranks);
  InsertLedger(database, trial_id, "predicted", predicted);

  const auto& [total, strict_correct, flexible_correct, invalid, truncated, strict_by_seed, strict_squares,
               all_questions] = accuracy;
  database
      .Prepare(
          "UPDATE trials SET answers_total = ?, strict_correct = ?, flexible_correct = ?,"
          " invalid = ?, truncated = ?, strict_squares = ?, all_questions = ? WHERE id = ?")
      .Bind(total, strict_correct, flexible_correct, invalid, truncated, strict_squares, all_questions, trial_id)
      .Run();

  int position = 0;
  Statement sample = database.Prepare(
      "INSERT INTO throughput_samples (trial_id, position, kind, repetition, tokens, batch, "
      "seconds)"
      " VALUES (?, ?, ?, ?, ?, ?, ?)");
  for (const auto& [kind, repetition, tokens, batch, seconds] : throughput) {
    sample
        .Bind(trial_id, position++, evals::ThroughputKindName(kind), repetition, tokens, batch,
              seconds)
        .Run();
  }
  position = 0;
  Statement phase_time = database.Prepare(
      "INSERT INTO phase_times (trial_id, position, phase, seconds) VALUES (?, ?, ?, ?)");
  for (const auto& [phase, seconds] : phase_seconds) {
    phase_time.Bind(trial_id, position++, phase, seconds).Run();
  }
  position = 0;
  Statement seed_score = database.Prepare(
      "INSERT INTO seed_scores (trial_id, position, strict_correct) VALUES (?, ?, ?)");
  for (const int correct : strict_by_seed) seed_score.Bind(trial_id, position++, correct).Run();
}

}  // namespace

// ---- studies -----------------------------------------------------------------------------------

int64_t InsertStudy(Database& database, const StudySpec& spec, std::string_view created_utc) {
  const std::string spec_json = ToJson(spec);
  database
      .Prepare(
          "INSERT INTO studies (name, fingerprint, state, created_utc, spec_json)"
          " VALUES (?, ?, ?, ?, ?)")
      .Bind(spec.name, spec.fingerprint, StudyStateName(StudyState::kRunning), created_utc,
            spec_json)
      .Run();
  return database.LastInsertId();
}

std::vector<Study> ReadStudies(Database& database) {
  Statement select = database.Prepare(std::string(kSelectStudies) + "ORDER BY id");
  std::vector<Study> studies;
  while (select.Step()) studies.push_back(ReadStudyRow(select));
  return studies;
}

std::optional<Study> ReadStudy(Database& database, std::string_view name) {
  Statement select = database.Prepare(std::string(kSelectStudies) + "WHERE name = ?");
  if (!select.Bind(name).Step()) return std::nullopt;
  return ReadStudyRow(select);
}

std::optional<std::string> ReadStudyName(Database& database, int64_t study_id) {
  Statement select = database.Prepare("SELECT name FROM studies WHERE id = ?");
  if (!select.Bind(study_id).Step()) return std::nullopt;
  return select.Text(0);
}

// ---- trials ------------------------------------------------------------------------------------

int64_t InsertTrial(Database& database, const Trial& trial) {
  const auto& [kind, floors, plan_digest, plan_json, predicted_bytes, predicted_weight_bytes,
               bits_per_weight, purpose] = trial.plan;
  database
      .Prepare(
          "INSERT INTO trials (study_id, number, state, created_utc, kind, strict_floor,"
          " lazy_floor, head_floor, plan_digest, predicted_bytes, predicted_weight_bytes,"
          " bits_per_weight, purpose) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
      .Bind(trial.study_id, trial.number, TrialStateName(trial.state), trial.created_utc,
            TrialKindName(kind), floors.strict, floors.lazy, floors.head, plan_digest,
            predicted_bytes, predicted_weight_bytes, bits_per_weight, purpose)
      .Run();
  const int64_t id = database.LastInsertId();
  database.Prepare("INSERT INTO trial_plans (trial_id, plan_json) VALUES (?, ?)")
      .Bind(id, plan_json)
      .Run();
  return id;
}

std::vector<Trial> ReadTrials(Database& database, int64_t study_id, Plans plans) {
  Statement select =
      database.Prepare(SelectTrials(plans) + "WHERE study_id = ? ORDER BY number");
  select.Bind(study_id);
  std::vector<Trial> trials;
  while (select.Step()) trials.push_back(ReadTrialRow(select));
  ReadDetails(database, kOfStudy, study_id, trials);
  return trials;
}

std::optional<Trial> ReadTrial(Database& database, int64_t trial_id) {
  Statement select = database.Prepare(SelectTrials(Plans::kWhole) + "WHERE id = ?");
  if (!select.Bind(trial_id).Step()) return std::nullopt;
  std::vector<Trial> trials = {ReadTrialRow(select)};
  ReadDetails(database, kOfTrial, trial_id, trials);
  return std::move(trials.front());
}

std::optional<TrialHead> ReadTrialHead(Database& database, int64_t trial_id) {
  Statement select = database.Prepare(
      "SELECT name, number, trials.state FROM trials JOIN studies ON studies.id = study_id"
      " WHERE trials.id = ?");
  if (!select.Bind(trial_id).Step()) return std::nullopt;
  return ReadTrialHeadRow(select);
}

std::optional<TrialHead> ReadPlanHolder(Database& database, int64_t study_id,
                                        const NewTrial& plan) {
  Statement select = database.Prepare(
      "SELECT name, number, trials.state FROM trials JOIN studies ON studies.id = study_id"
      " WHERE study_id = ? AND kind = ? AND plan_digest = ? AND trials.state <> 'failed'");
  if (!select.Bind(study_id, TrialKindName(plan.kind), plan.plan_digest).Step()) {
    return std::nullopt;
  }
  return ReadTrialHeadRow(select);
}

int NextTrialNumber(Database& database, int64_t study_id) {
  Statement select =
      database.Prepare("SELECT coalesce(max(number) + 1, 0) FROM trials WHERE study_id = ?");
  select.Bind(study_id).Step();
  return select.Int(0);
}

void UpdateTrialRunning(Database& database, int64_t trial_id) {
  database.Prepare("UPDATE trials SET state = 'running' WHERE id = ?").Bind(trial_id).Run();
}

void FinishTrialRows(Database& database, int64_t trial_id, TrialState state, const Verdict& verdict,
                     const TrialMeasurements& measured, std::string_view finished_utc) {
  InsertMeasurements(database, trial_id, measured);
  const auto& [reason, phase, device, short_bytes, message] = verdict;
  database
      .Prepare(
          "UPDATE trials SET state = ?, finished_utc = ?, reason = ?, phase = ?, device = ?,"
          " short_bytes = ?, message = ? WHERE id = ?")
      .Bind(TrialStateName(state), finished_utc, ReasonName(reason), phase, device, short_bytes,
            message, trial_id)
      .Run();
}

// ---- attempts ----------------------------------------------------------------------------------

LatestAttempt ReadLatestAttempt(Database& database, int64_t trial_id) {
  Statement select = database.Prepare(
      "SELECT number, ended_utc = '' FROM attempts WHERE trial_id = ? ORDER BY number DESC LIMIT "
      "1");
  if (!select.Bind(trial_id).Step()) return {};
  return {.number = select.Int(0), .open = select.Bool(1)};
}

void InsertAttempt(Database& database, int64_t trial_id, const Attempt& attempt) {
  database
      .Prepare("INSERT INTO attempts (trial_id, number, started_utc, log_path) VALUES (?, ?, ?, ?)")
      .Bind(trial_id, attempt.number, attempt.started_utc, attempt.log_path)
      .Run();
}

void EndOpenAttempt(Database& database, int64_t trial_id, const Verdict& verdict,
                    std::string_view ended_utc) {
  const auto& [reason, phase, device, short_bytes, message] = verdict;
  database
      .Prepare(
          "UPDATE attempts SET ended_utc = ?, reason = ?, phase = ?, device = ?, short_bytes = ?,"
          " message = ? WHERE trial_id = ? AND ended_utc = ''")
      .Bind(ended_utc, ReasonName(reason), phase, device, short_bytes, message, trial_id)
      .Run();
}

// ---- answers -----------------------------------------------------------------------------------

void InsertAnswers(Database& database, int64_t trial_id, int attempt, const std::vector<Answer>& answers) {
  // Not OR IGNORE, which would also swallow a row that breaks any other rule.
  Statement insert = database.Prepare(
      "INSERT INTO answers (trial_id, stage, question, seed, attempt, prompt_sha256, text, strict, flexible,"
      " strict_correct, flexible_correct, finish, prompt_tokens, generated_tokens)"
      " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
      " ON CONFLICT (trial_id, stage, question, seed) DO NOTHING");
  for (const auto& [stage, question, seed, prompt_sha256, text, strict, flexible, strict_correct,
                    flexible_correct, finish, prompt_tokens, generated_tokens] : answers) {
    insert
        .Bind(trial_id, stage, question, seed, attempt, prompt_sha256, Blob{text}, strict, flexible,
              strict_correct, flexible_correct, evals::FinishReasonName(finish), prompt_tokens,
              generated_tokens)
        .Run();
  }
}

void DeleteAnswers(Database& database, int64_t trial_id, int attempt) {
  database.Prepare("DELETE FROM answers WHERE trial_id = ? AND attempt = ?").Bind(trial_id, attempt).Run();
}

std::vector<Answer> ReadAnswers(Database& database, int64_t trial_id) {
  Statement select = database.Prepare(
      "SELECT stage, question, seed, prompt_sha256, text, strict, flexible, strict_correct,"
      " flexible_correct, finish, prompt_tokens, generated_tokens FROM answers WHERE trial_id = ?"
      " ORDER BY stage, question, seed");
  select.Bind(trial_id);
  std::vector<Answer> answers;
  while (select.Step()) {
    Row row(select);
    auto& [stage, question, seed, prompt_sha256, text, strict, flexible, strict_correct,
           flexible_correct, finish, prompt_tokens, generated_tokens] = answers.emplace_back();
    stage = row.Text();
    question = row.Int();
    seed = row.Int();
    prompt_sha256 = row.Text();
    text = row.Text();
    strict = row.Text();
    flexible = row.Text();
    strict_correct = row.Bool();
    flexible_correct = row.Bool();
    finish = row.Name(evals::FinishReasonFromName);
    prompt_tokens = row.Int();
    generated_tokens = row.Int();
  }
  return answers;
}

}  // namespace hproc::controller
