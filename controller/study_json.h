// The study's words as JSON text: for the store's JSON columns, the CLI's --json and the HTTP
// views.
//
// Keys are the names of the struct fields, in their order; enums are their names; an absent
// optional and a number that is not finite are null. Bytes that are not UTF-8 (a token cut in the
// middle) are written as U+FFFD.
//
// Reading is strict: every key must be there once with a value of its type and range, and no other
// key may be. The error gives the path of the value: "deployment.context: expected a whole number,
// found a string". Old rows therefore have to be rewritten by the migration that adds a field
// (schema/, json_set), which is what tests/data/schema watches. A null number reads as NaN.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "controller/operating_point.h"
#include "controller/study.h"

namespace hproc::controller {

std::string ToJson(const StudySpec& spec);
std::string ToJson(const Study& study);
std::string ToJson(const Verdict& verdict);
std::string ToJson(const Answer& answer);
std::string ToJson(const AccuracyTally& tally);
std::string ToJson(const TrialMeasurements& measured);
std::string ToJson(const Attempt& attempt);
std::string ToJson(const OperatingPoint& point);  // see operating_point.h for the file's form
std::string ToJson(const Trial& trial);  // with the whole plan under plan.plan_json, as text

Result<StudySpec> StudySpecFromJson(std::string_view text);
Result<Study> StudyFromJson(std::string_view text);
Result<Verdict> VerdictFromJson(std::string_view text);
Result<Answer> AnswerFromJson(std::string_view text);
Result<AccuracyTally> AccuracyTallyFromJson(std::string_view text);
Result<TrialMeasurements> TrialMeasurementsFromJson(std::string_view text);
Result<Attempt> AttemptFromJson(std::string_view text);
Result<Trial> TrialFromJson(std::string_view text);
Result<OperatingPoint> OperatingPointFieldsFromJson(std::string_view text);

}  // namespace hproc::controller
