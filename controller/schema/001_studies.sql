-- Schema 1: studies, trials and everything a trial leaves behind.
--
-- Columns are what reports filter, sort or sum; JSON is only what is read back whole (the spec, the
-- plan, the outcome). Names are the words of controller/study.h. Times are RFC 3339 text in UTC. A
-- REAL is null where the number was not finite. Booleans are 0 or 1.
--
-- Application code keeps finished trials as they are; the triggers at the end hold against bugs and
-- other programs. A migration that must rewrite finished rows drops them first and puts them back.

CREATE TABLE studies (
  id           INTEGER PRIMARY KEY,
  name         TEXT NOT NULL UNIQUE,
  fingerprint  TEXT NOT NULL,             -- of the checkpoint; also in the spec
  state        TEXT NOT NULL CHECK (state IN ('running', 'interrupted', 'done')),
  created_utc  TEXT NOT NULL,
  spec_json    TEXT NOT NULL,             -- StudySpec
  outcome_json TEXT NOT NULL DEFAULT '',  -- what `tune --json` printed last
  measure_json TEXT NOT NULL DEFAULT '',  -- result:measure of the rate table pass
  calibration_json TEXT NOT NULL DEFAULT ''  -- of the garbage rules, by the reference trial
) STRICT;

CREATE TABLE trials (
  id                     INTEGER PRIMARY KEY,
  study_id               INTEGER NOT NULL REFERENCES studies (id),
  number                 INTEGER NOT NULL CHECK (number >= 0),
  state                  TEXT NOT NULL CHECK (
                           state IN ('waiting', 'running', 'complete', 'infeasible', 'failed')),
  created_utc            TEXT NOT NULL,
  finished_utc           TEXT NOT NULL DEFAULT '',

  -- what was asked for; the plan itself is in trial_plans
  kind                   TEXT NOT NULL,
  strict_floor           REAL NOT NULL,
  lazy_floor             REAL NOT NULL,
  head_floor             REAL NOT NULL,
  plan_digest            TEXT NOT NULL,
  predicted_bytes        INTEGER NOT NULL,
  predicted_weight_bytes INTEGER NOT NULL,
  bits_per_weight        REAL NOT NULL,
  purpose                TEXT NOT NULL,

  -- the verdict
  reason                 TEXT NOT NULL DEFAULT 'none',
  phase                  TEXT NOT NULL DEFAULT '',
  device                 TEXT NOT NULL DEFAULT '',
  short_bytes            INTEGER NOT NULL DEFAULT 0,
  message                TEXT NOT NULL DEFAULT '',

  -- what the worker loaded; all null until the load was through
  loaded_plan_digest     TEXT,
  weight_bytes           INTEGER,
  loaded_bits_per_weight REAL,
  load_seconds           REAL,

  -- the memory ledger's totals; all null until it was taken
  memory_device          TEXT,
  live_bytes             INTEGER,
  peak_bytes             INTEGER,
  cap_bytes              INTEGER,

  -- sums over the task answers
  answers_total          INTEGER NOT NULL DEFAULT 0,
  strict_correct         INTEGER NOT NULL DEFAULT 0,
  flexible_correct       INTEGER NOT NULL DEFAULT 0,
  invalid                INTEGER NOT NULL DEFAULT 0,
  truncated              INTEGER NOT NULL DEFAULT 0,
  strict_squares         INTEGER NOT NULL DEFAULT 0,  -- over the questions, the square of the seeds that were right
  all_questions          INTEGER NOT NULL DEFAULT 0 CHECK (all_questions IN (0, 1)),

  UNIQUE (study_id, number),
  CHECK ((state IN ('complete', 'infeasible', 'failed')) = (finished_utc <> '')),
  CHECK ((loaded_plan_digest IS NULL) = (weight_bytes IS NULL)),
  CHECK ((memory_device IS NULL) = (live_bytes IS NULL))
) STRICT;

-- Two floor pairs with one plan are one trial; a failed one says nothing and makes room.
CREATE UNIQUE INDEX trials_by_plan ON trials (study_id, kind, plan_digest) WHERE state <> 'failed';

-- Apart from the trials, which are read far more often than the megabytes a plan may take.
CREATE TABLE trial_plans (
  trial_id  INTEGER PRIMARY KEY REFERENCES trials (id),
  plan_json TEXT NOT NULL
) STRICT;

CREATE TABLE attempts (
  trial_id    INTEGER NOT NULL REFERENCES trials (id),
  number      INTEGER NOT NULL CHECK (number >= 1),
  started_utc TEXT NOT NULL,
  ended_utc   TEXT NOT NULL DEFAULT '',
  reason      TEXT NOT NULL DEFAULT 'none',
  phase       TEXT NOT NULL DEFAULT '',
  device      TEXT NOT NULL DEFAULT '',
  short_bytes INTEGER NOT NULL DEFAULT 0,
  message     TEXT NOT NULL DEFAULT '',
  log_path    TEXT NOT NULL,
  PRIMARY KEY (trial_id, number)
) STRICT, WITHOUT ROWID;

-- Not WITHOUT ROWID: rows of many kilobytes would sit in the inner nodes of the tree.
CREATE TABLE answers (
  trial_id         INTEGER NOT NULL REFERENCES trials (id),
  stage            TEXT NOT NULL,
  question         INTEGER NOT NULL,
  seed             INTEGER NOT NULL,
  attempt          INTEGER NOT NULL,  -- that gave it
  prompt_sha256    TEXT NOT NULL,
  text             BLOB NOT NULL,  -- bytes: a model may write NUL and stop inside a character
  strict           TEXT NOT NULL,
  flexible         TEXT NOT NULL,
  strict_correct   INTEGER NOT NULL CHECK (strict_correct IN (0, 1)),
  flexible_correct INTEGER NOT NULL CHECK (flexible_correct IN (0, 1)),
  finish           TEXT NOT NULL,
  prompt_tokens    INTEGER NOT NULL,
  generated_tokens INTEGER NOT NULL,
  UNIQUE (trial_id, stage, question, seed),
  FOREIGN KEY (trial_id, attempt) REFERENCES attempts (trial_id, number)
) STRICT;

-- `position` keeps the worker's own order in the tables below.
CREATE TABLE ledger_lines (
  trial_id INTEGER NOT NULL REFERENCES trials (id),
  source   TEXT NOT NULL CHECK (source IN ('measured', 'predicted')),
  position INTEGER NOT NULL,
  name     TEXT NOT NULL,
  bytes    INTEGER NOT NULL,
  PRIMARY KEY (trial_id, source, position)
) STRICT, WITHOUT ROWID;

-- Of several ranks, each one's ledger; trials and ledger_lines have the tightest device's.
CREATE TABLE rank_ledgers (
  trial_id   INTEGER NOT NULL REFERENCES trials (id),
  rank       INTEGER NOT NULL CHECK (rank >= 0),
  device     TEXT NOT NULL,
  live_bytes INTEGER NOT NULL,
  peak_bytes INTEGER NOT NULL,
  cap_bytes  INTEGER NOT NULL,
  PRIMARY KEY (trial_id, rank)
) STRICT, WITHOUT ROWID;

CREATE TABLE rank_ledger_lines (
  trial_id INTEGER NOT NULL REFERENCES trials (id),
  rank     INTEGER NOT NULL,
  position INTEGER NOT NULL,
  name     TEXT NOT NULL,
  bytes    INTEGER NOT NULL,
  PRIMARY KEY (trial_id, rank, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE family_reports (
  trial_id       INTEGER NOT NULL REFERENCES trials (id),
  position       INTEGER NOT NULL,
  family         TEXT NOT NULL,
  weights        INTEGER NOT NULL,
  bytes          INTEGER NOT NULL,
  min_cosine     REAL,
  mean_cosine    REAL,
  min_norm_ratio REAL,
  max_norm_ratio REAL,
  PRIMARY KEY (trial_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE throughput_samples (
  trial_id   INTEGER NOT NULL REFERENCES trials (id),
  position   INTEGER NOT NULL,
  kind       TEXT NOT NULL,
  repetition INTEGER NOT NULL,
  tokens     INTEGER NOT NULL,
  batch      INTEGER NOT NULL,
  seconds    REAL,
  PRIMARY KEY (trial_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE phase_times (
  trial_id INTEGER NOT NULL REFERENCES trials (id),
  position INTEGER NOT NULL,
  phase    TEXT NOT NULL,
  seconds  REAL,
  PRIMARY KEY (trial_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE seed_scores (
  trial_id       INTEGER NOT NULL REFERENCES trials (id),
  position       INTEGER NOT NULL,
  strict_correct INTEGER NOT NULL,
  PRIMARY KEY (trial_id, position)
) STRICT, WITHOUT ROWID;

-- ---- frozen rows -------------------------------------------------------------------------------

CREATE TRIGGER trials_frozen_update BEFORE UPDATE ON trials
  WHEN OLD.state IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER trials_frozen_delete BEFORE DELETE ON trials
  WHEN OLD.state IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER trials_never_back BEFORE UPDATE OF state ON trials
  WHEN OLD.state = 'running' AND NEW.state = 'waiting'
  BEGIN SELECT RAISE(ABORT, 'a trial never goes back to waiting'); END;

-- The same for every table that hangs off a trial. FinishTrial writes these rows before the state.

CREATE TRIGGER trial_plans_frozen_insert BEFORE INSERT ON trial_plans
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER trial_plans_frozen_update BEFORE UPDATE ON trial_plans
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER trial_plans_frozen_delete BEFORE DELETE ON trial_plans
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;

CREATE TRIGGER attempts_frozen_insert BEFORE INSERT ON attempts
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER attempts_frozen_update BEFORE UPDATE ON attempts
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER attempts_frozen_delete BEFORE DELETE ON attempts
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;

CREATE TRIGGER answers_frozen_insert BEFORE INSERT ON answers
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER answers_frozen_update BEFORE UPDATE ON answers
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER answers_frozen_delete BEFORE DELETE ON answers
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;

CREATE TRIGGER ledger_lines_frozen_insert BEFORE INSERT ON ledger_lines
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER ledger_lines_frozen_update BEFORE UPDATE ON ledger_lines
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER ledger_lines_frozen_delete BEFORE DELETE ON ledger_lines
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;

CREATE TRIGGER rank_ledgers_frozen_insert BEFORE INSERT ON rank_ledgers
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER rank_ledgers_frozen_update BEFORE UPDATE ON rank_ledgers
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER rank_ledgers_frozen_delete BEFORE DELETE ON rank_ledgers
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;

CREATE TRIGGER rank_ledger_lines_frozen_insert BEFORE INSERT ON rank_ledger_lines
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER rank_ledger_lines_frozen_update BEFORE UPDATE ON rank_ledger_lines
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER rank_ledger_lines_frozen_delete BEFORE DELETE ON rank_ledger_lines
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;

CREATE TRIGGER family_reports_frozen_insert BEFORE INSERT ON family_reports
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER family_reports_frozen_update BEFORE UPDATE ON family_reports
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER family_reports_frozen_delete BEFORE DELETE ON family_reports
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;

CREATE TRIGGER throughput_samples_frozen_insert BEFORE INSERT ON throughput_samples
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER throughput_samples_frozen_update BEFORE UPDATE ON throughput_samples
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER throughput_samples_frozen_delete BEFORE DELETE ON throughput_samples
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;

CREATE TRIGGER phase_times_frozen_insert BEFORE INSERT ON phase_times
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER phase_times_frozen_update BEFORE UPDATE ON phase_times
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER phase_times_frozen_delete BEFORE DELETE ON phase_times
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;

CREATE TRIGGER seed_scores_frozen_insert BEFORE INSERT ON seed_scores
  WHEN (SELECT state FROM trials WHERE id = NEW.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER seed_scores_frozen_update BEFORE UPDATE ON seed_scores
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
CREATE TRIGGER seed_scores_frozen_delete BEFORE DELETE ON seed_scores
  WHEN (SELECT state FROM trials WHERE id = OLD.trial_id) IN ('complete', 'infeasible', 'failed')
  BEGIN SELECT RAISE(ABORT, 'a finished trial never changes'); END;
