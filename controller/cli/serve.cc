// serve: the dashboard of a study file.
#include <fmt/core.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "controller/cli/commands.h"
#include "controller/cli/setup.h"
#include "web/assets.h"
#include "web/http_server.h"
#include "web/random_hex.h"
#include "web/request_guard.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLeastTokenBytes = 16;

Result<std::string> TokenOf(const std::string& file) {
  if (file.empty()) return web::RandomHex(24);
  Result<std::string> token = ReadFile(file, 4096);
  if (!token.ok()) return token.error();
  token->erase(token->find_last_not_of(" \t\r\n") + 1);
  for (const char c : *token) {
    if (c <= ' ' || c > '~') return Error{file + ": a token is one word of printable ASCII"};
  }
  if (token->size() < kLeastTokenBytes) {
    return Error{fmt::format("{}: a token has at least {} characters", file, kLeastTokenBytes)};
  }
  return token;
}

}  // namespace

int RunServe(const ServeOptions& options) {
  InterruptGuard guard({});
  std::error_code error;
  const fs::path db = fs::absolute(options.db).lexically_normal();
  if (!fs::is_directory(db.parent_path(), error)) {
    return Fail(kExitInfrastructure, options.db + ": no folder " + db.parent_path().string());
  }
  if (fs::exists(db, error)) {  // a file that is none of ours is said now, not on the page
    if (Result<std::unique_ptr<Store>> store = OpenSqliteStore(db, OpenMode::kReadOnly);
        !store.ok() && fs::file_size(db, error) > 0) {
      return Fail(kExitInfrastructure, store.error().message);
    }
  }
  Result<web::ModelRoots> roots = web::ModelRoots::Create({options.roots.begin(), options.roots.end()});
  if (!roots.ok()) return Fail(kExitInfrastructure, roots.error().message);
  Result<std::string> token = TokenOf(options.token_file);
  if (!token.ok()) return Fail(kExitInfrastructure, token.error().message);
  Result<WorkerSetup> worker = WorkerBesideThis({});
  if (!worker.ok()) return Fail(kExitInfrastructure, worker.error().message);
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) return Fail(kExitInfrastructure, "cannot find this program itself: " + error.message());

  web::Api api({.db = db,
                .roots = *std::move(roots),
                .program = program,
                .worker = *std::move(worker),
                .log_folder = LogFolderOf(db.string()),
                .table_folder = TableFolderOf(db.string())});
  Result<std::unique_ptr<web::HttpServer>> server = web::HttpServer::Create(
      api, {.bind_host = options.bind, .port = options.port, .extra_hosts = options.allowed_hosts, .token = *token});
  if (!server.ok()) return Fail(kExitInfrastructure, server.error().message);
  const std::string host = options.bind.find(':') != std::string::npos ? "[" + options.bind + "]" : options.bind;
  const std::string url = fmt::format("http://{}:{}/", host, (*server)->port());
  // Behind the #, the token stays in the browser: it is sent to nobody and stands in no log.
  if (options.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"url", url}, {"port", (*server)->port()}, {"token", *token}}.dump());
  } else {
    fmt::print("{}#token={}\n", url, *token);
  }
  std::fflush(stdout);
  if (!web::IsLoopback(options.bind)) {
    fmt::print(stderr, "hproc: {} is not this machine alone, and nothing here is encrypted\n", options.bind);
  }
  if (const std::string_view why = web::NoPageReason(); !why.empty()) {
    fmt::print(stderr, "hproc: the API alone, without the page: when this program was built, {}\n", why);
  }
  guard.SetStop([&server] { (*server)->Stop(); });
  (*server)->Run();
  guard.SetStop({});
  api.AwaitRuns();
  return kExitDone;
}

}  // namespace hproc::controller
