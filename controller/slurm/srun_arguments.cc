#include "controller/slurm/srun_arguments.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

namespace hproc::controller {
namespace {

// Short options of srun that take a value.
constexpr std::string_view kValued = "ACDFGLMScdmpqtwx";
// Ours, and what would take the worker's input, output or environment away. -K, -W: how srun ends its tasks.
constexpr std::string_view kOursShort = "JnNioeKWIEQv";
constexpr std::array<std::string_view, 18> kOursLong = {
    "job-name", "ntasks", "nodes",  "input",     "output",  "error", "export", "pty",         "multi-prog",
    "label",    "help",   "usage",  "version",   "bcast",   "epilog", "prolog", "kill-on-bad-exit", "no-kill"};

constexpr std::string_view kExclude = "--exclude=";

// The value of the operator's own --exclude, which a second one would replace; taken out of `arguments`.
std::optional<std::string> TakeExclude(std::vector<std::string>& arguments) {
  std::optional<std::string> value;
  std::vector<std::string> rest;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument.starts_with(kExclude)) {
      value = argument.substr(kExclude.size());
    } else if (argument == "-x" && i + 1 < arguments.size()) {
      value = arguments[++i];
    } else if (argument.starts_with("-x")) {
      value = argument.substr(2);
    } else {
      rest.push_back(argument);
    }
  }
  arguments = std::move(rest);
  return value;
}

}  // namespace

Result<std::vector<std::string>> SplitArguments(const std::string& text) {
  std::vector<std::string> arguments;
  std::optional<std::string> current;
  char quote = 0;
  for (const char c : text) {
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else {
        *current += c;
      }
    } else if (c == '\'' || c == '"') {
      quote = c;
      if (!current) current.emplace();
    } else if (c == ' ' || c == '\t' || c == '\n') {
      if (current) arguments.push_back(*std::move(current));
      current.reset();
    } else {
      if (!current) current.emplace();
      *current += c;
    }
  }
  if (quote != 0) return Error{std::string("--slurm-args: a quote ") + quote + " is not closed"};
  if (current) arguments.push_back(*std::move(current));
  return arguments;
}

Result<void> CheckSrunArguments(const std::vector<std::string>& arguments) {
  const auto refuse = [](const std::string& argument, const char* why) {
    return Error{"--slurm-args: '" + argument + "' " + why};
  };
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (std::ranges::any_of(argument, [](char c) { return static_cast<unsigned char>(c) < 0x20; })) {
      return refuse("…", "holds a control character");
    }
    if (argument.starts_with("--")) {
      const std::string name = argument.substr(2, argument.find('=') == std::string::npos ? std::string::npos : argument.find('=') - 2);
      if (name.empty()) return refuse(argument, "ends the options of srun, and what follows would be run");
      // srun takes any beginning of a name that is unambiguous.
      const auto is_ours = [&](std::string_view ours) { return ours.starts_with(name); };
      if (std::ranges::any_of(kOursLong, is_ours)) return refuse(argument, "is not the operator's to set");
      continue;
    }
    if (argument.size() < 2 || argument[0] != '-') {
      return refuse(argument, "is no option of srun; the value of a long option stands behind =");
    }
    if (kOursShort.find(argument[1]) != std::string_view::npos) return refuse(argument, "is not the operator's to set");
    if (kValued.find(argument[1]) == std::string_view::npos) {
      if (argument.size() > 2) return refuse(argument, "is more than one option");
      continue;
    }
    if (argument.size() > 2) continue;
    if (++i == arguments.size()) return refuse(argument, "lacks its value");
  }
  return Ok();
}

std::vector<std::string> SrunArguments(const SrunTask& task) {
  std::vector<std::string> argv = {"--job-name=" + task.job_name, "--nodes=1", "--ntasks=1", "--input=none", "--export=ALL",
                                   "--mpi=none", "--kill-on-bad-exit=1"};
  if (task.threads > 0) argv.push_back("--cpus-per-task=" + std::to_string(task.threads));
  std::vector<std::string> operators = task.operators;
  std::string exclude = TakeExclude(operators).value_or("");
  for (const std::string& node : task.avoid) exclude += (exclude.empty() ? "" : ",") + node;
  argv.insert(argv.end(), operators.begin(), operators.end());
  if (!exclude.empty()) argv.push_back(std::string(kExclude) + exclude);
  argv.insert(argv.end(), task.command.begin(), task.command.end());
  return argv;
}

}  // namespace hproc::controller
