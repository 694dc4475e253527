// report: a study as a document for people, in HTML and in Markdown.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "controller/cli/commands.h"
#include "controller/cli/setup.h"
#include "controller/tuner.h"
#include "web/report.h"

namespace hproc::controller {

int RunReport(const StudyOptions& options, const std::string& stem) {
  ExitCode code{};
  Result<Opened> opened = OpenStudy(options, code);
  if (!opened.ok()) return Fail(code, opened.error().message);
  Result<std::unique_ptr<PlanSpace>> space = SpaceOf(opened->study);
  if (!space.ok()) return Fail(kExitInfrastructure, space.error().message);
  const Result<web::Document> report = web::ReportOf(*opened->store, opened->study, opened->trials, **space);
  if (!report.ok()) return Fail(kExitInfrastructure, report.error().message);
  const std::string html = stem + ".html";
  const std::string markdown = stem + ".md";
  for (const auto& [path, text] : {std::pair{html, web::ToHtml(*report)}, std::pair{markdown, web::ToMarkdown(*report)}}) {
    if (Result<void> written = WriteFileAtomically(path, text); !written.ok()) {
      return Fail(kExitInfrastructure, written.error().message);
    }
  }
  if (options.json) {
    fmt::print("{}\n", nlohmann::json{{"html", html}, {"markdown", markdown}}.dump());
  } else {
    fmt::print("{}\n{}\n", html, markdown);
  }
  return kExitDone;
}

}  // namespace hproc::controller
