#include "controller/slurm/srun_arguments.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string_view>

namespace hproc::controller {
namespace {

// Short options of srun that take a value.
constexpr std::string_view kValued = "ABCDFGLSTbcdmpqtwx";

constexpr std::string_view kSetByUs = "is set by the launcher itself";
constexpr std::string_view kOneTask = "would not be one task on one node";
constexpr std::string_view kStreams = "would take the worker's standard streams or environment away";
constexpr std::string_view kNotRun = "does not run the worker";
constexpr std::string_view kWaiting = "changes how srun waits, which is the launcher's own";

// The options of srun that are not the operator's, as srun(1) lists them, and why.
struct Reserved {
  std::string_view name;
  char letter;  // 0: it has none
  std::string_view why;
};
constexpr Reserved kReserved[] = {
    {"job-name", 'J', kSetByUs},
    {"nodes", 'N', kSetByUs},
    {"ntasks", 'n', kSetByUs},
    {"input", 'i', kSetByUs},
    {"export", 0, kSetByUs},
    {"mpi", 0, kSetByUs},
    {"kill-on-bad-exit", 'K', kSetByUs},
    {"ntasks-per-core", 0, kOneTask},
    {"ntasks-per-gpu", 0, kOneTask},
    {"ntasks-per-node", 0, kOneTask},
    {"ntasks-per-socket", 0, kOneTask},
    {"multi-prog", 0, kOneTask},
    {"het-group", 0, kOneTask},
    {"relative", 'r', kOneTask},
    {"output", 'o', kStreams},
    {"error", 'e', kStreams},
    {"open-mode", 0, kStreams},
    {"label", 'l', kStreams},
    {"pty", 0, kStreams},
    {"preserve-env", 'E', kStreams},
    {"quiet", 'Q', "would silence srun, whose words explain a failure"},
    {"verbose", 'v', "would bury srun's words, which explain a failure"},
    {"bcast", 0, kNotRun},
    {"test-only", 0, kNotRun},
    {"help", 'h', kNotRun},
    {"usage", 0, kNotRun},
    {"version", 'V', kNotRun},
    {"no-allocate", 'Z', kNotRun},
    {"immediate", 'I', kWaiting},
    {"wait", 'W', kWaiting},
    {"no-kill", 'k', kWaiting},
    {"disable-status", 'X', kWaiting},
    {"quit-on-interrupt", 0, kWaiting},
    {"prolog", 0, "would run a program beside the launcher"},
    {"epilog", 0, "would run a program beside the launcher"},
    {"task-prolog", 0, "would run a program beside the launcher"},
    {"task-epilog", 0, "would run a program beside the launcher"},
    {"clusters", 'M', "names another cluster than the one that is asked what became of the job"},
};

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
  const auto refuse = [](const std::string& argument, std::string_view why) {
    return Error{"--slurm-args: '" + argument + "' " + std::string(why)};
  };
  const auto refuse_reserved = [](const std::string& argument, const Reserved& reserved) {
    const std::string option = "--" + std::string(reserved.name);
    const bool is_spelt_out = argument == option || argument.starts_with(option + "=");
    return Error{"--slurm-args: '" + argument + "' " + (is_spelt_out ? "" : "is " + option + ", which ") + std::string(reserved.why)};
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
      const auto* reserved = std::ranges::find_if(kReserved, [&](const Reserved& r) { return r.name.starts_with(name); });
      if (reserved != std::end(kReserved)) return refuse_reserved(argument, *reserved);
      continue;
    }
    if (argument.size() < 2 || argument[0] != '-') {
      return refuse(argument, "is no option of srun; the value of a long option stands behind =");
    }
    const auto* reserved = std::ranges::find(kReserved, argument[1], &Reserved::letter);
    if (reserved != std::end(kReserved)) return refuse_reserved(argument, *reserved);
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
