// The study that tests/data/schema keeps once for every version of the schema, with every field
// set.
//
// How a new version gets its file: store_helper make-schema tests/data/schema/vN.db, once, when the
// migration is released; the file is never written again. When a struct gains a field, the examples
// here name the value that a migrated old row is to have.
#pragma once

#include <filesystem>
#include <vector>

#include "base/result.h"
#include "controller/study.h"

namespace hproc::controller {

// The study and its trials, ids and times included, and the answers of trial 0.
Study SchemaFixtureStudy();
std::vector<Trial> SchemaFixtureTrials();
std::vector<Answer> SchemaFixtureAnswers();

// A file of the current schema that holds them. `path` must not exist.
Result<void> WriteSchemaFixture(const std::filesystem::path& path);

}  // namespace hproc::controller
