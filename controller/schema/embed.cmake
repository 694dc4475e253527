# cmake -DOUTPUT=migrations_generated.cc "-DSQL=001_a.sql;002_b.sql" -P embed.cmake
#
# Writes the migrations as C++ string literals, so that the binary carries its schema and needs no
# file beside it. Stops the build where the numbers leave a gap: version n of a database is what the
# first n files make.
set(rows "")
set(wanted 1)
foreach(file IN LISTS SQL)
  get_filename_component(stem ${file} NAME_WE)
  if(NOT stem MATCHES "^([0-9][0-9][0-9])_([a-z0-9_]+)$")
    message(FATAL_ERROR "${file}: a migration is named NNN_what_it_does.sql")
  endif()
  set(name ${CMAKE_MATCH_2})
  string(REGEX REPLACE "^0+" "" number ${CMAKE_MATCH_1})
  if(NOT number STREQUAL "${wanted}")
    message(FATAL_ERROR "${file}: migration ${wanted} was expected here")
  endif()
  file(READ ${file} sql)
  string(APPEND rows "    {${number}, \"${name}\", R\"sql(${sql})sql\"},\n")
  math(EXPR wanted "${wanted} + 1")
endforeach()
math(EXPR count "${wanted} - 1")

file(WRITE ${OUTPUT} "// Generated from controller/schema/*.sql by controller/schema/embed.cmake.
#include \"controller/migrations.h\"

namespace hproc::controller {
namespace {

constexpr Migration kMigrations[${count}] = {
${rows}};

}  // namespace

std::span<const Migration> Migrations() { return kMigrations; }

}  // namespace hproc::controller
")
