// The service in this process, on a port of its own, over a study file in a folder of its own; searches are real hproc
// processes with fake_worker for a worker.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/controller/fake_study.h"
#include "tests/web/http_client.h"
#include "web/http_server.h"

namespace hproc::web {

inline constexpr const char* kToken = "0123456789abcdef0123456789abcdef";

class ServiceTest : public testing::Test {
 protected:
  void TearDown() override { Stop(); }

  std::string db() const { return fake_.File("study.db"); }

  // A study of example trials, of every state, without a rate table.
  void WriteExamples(int trials, const std::string& name = "demo") {
    auto store = *OpenSqliteStore(db(), controller::OpenMode::kReadWrite, controller::TickingClock());
    const int64_t study = store->CreateStudy(controller::ExampleSpec(name))->id;
    for (int n = 0; n < trials; ++n) ASSERT_TRUE(AddFinishedTrial(*store, study, n).ok());
  }

  void Start(ConnectionLimits limits = {}) {
    ::setenv("HPROC_WORKER", HPROC_FAKE_WORKER, 1);
    api_ = std::make_unique<Api>(ApiOptions{.db = db(),
                                            .roots = *ModelRoots::Create({fake_.File("")}),
                                            .program = HPROC_BINARY,
                                            .worker = fake_.setup(),
                                            .log_folder = db() + ".logs",
                                            .table_folder = db() + ".rates"});
    server_ = *HttpServer::Create(*api_, {.token = kToken, .limits = limits});
    thread_ = std::thread([this] { server_->Run(); });
  }
  void Stop() {
    if (!server_) return;
    server_->Stop();
    if (thread_.joinable()) thread_.join();
    server_.reset();
    api_->AwaitRuns();
    api_.reset();
  }

  int port() const { return server_->port(); }
  Reply Get(const std::string& target, const std::string& headers = {}) { return Ask(port(), "GET", target, headers); }
  nlohmann::json GetJson(const std::string& target) {
    const Reply reply = Get(target);
    EXPECT_EQ(reply.status, 200) << target << ": " << reply.body;
    const nlohmann::json json = nlohmann::json::parse(reply.body, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << target << ": " << reply.body;
    return json;
  }
  Reply Post(const std::string& target, const std::string& body = "{}", const std::string& headers = {}) {
    return Ask(port(), "POST", target,
               std::string("Authorization: Bearer ") + kToken + "\r\nContent-Type: application/json\r\nContent-Length: " +
                   std::to_string(body.size()) + "\r\n" + headers,
               body);
  }
  // Until `is_so`; false where that takes too long.
  static bool Eventually(const std::function<bool()>& is_so) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (std::chrono::steady_clock::now() < limit) {
      if (is_so()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }

  controller::FakeStudy fake_;
  std::unique_ptr<Api> api_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

}  // namespace hproc::web
