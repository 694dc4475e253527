// The page, as it was built into this program. Where node was not there at build time it is one plain page that says so.
#pragma once

#include <span>
#include <string_view>

namespace hproc::web {

struct Asset {
  std::string_view path;  // "/", "/app.js"
  std::string_view type;  // of its content
  std::string_view etag;  // quoted
  std::string_view plain;
  std::string_view gzip;  // empty: not worth it
};

std::span<const Asset> Assets();
// Why the page was not built; empty where it was.
std::string_view NoPageReason();

// web/openapi.json
std::string_view OpenApi();

}  // namespace hproc::web
