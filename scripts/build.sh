# What demo.sh and test.sh share; to be sourced. Knows the Debian packages that the build needs and how to build.
#
#   install_packages [OPTIONAL …]   installs what is missing through apt, says what, and does nothing where nothing is missing;
#                                   optional ones only where there are packages of that name
#   build PRESET                    configures (the first time) and builds that CMake preset into its folder

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '== %s\n' "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The package of Boost that is new enough for Boost.Process v2: Debian 12 keeps it beside its older default.
boost_package() {
  local default
  default=$(apt-cache show libboost-dev 2>/dev/null | sed -n 's/^Version: \([0-9]*\.[0-9]*\).*/\1/p' | head -n 1)
  if [ -n "$default" ] && dpkg --compare-versions "$default" ge 1.81; then
    echo libboost-dev
  else
    echo libboost1.81-dev
  fi
}

# False where the package lists are there and do not have it.
may_exist() {
  local policy
  policy=$(apt-cache policy "$1" 2>/dev/null)
  if [ -z "$policy" ]; then [ -z "$(apt-cache policy libc6 2>/dev/null | grep http)" ]; else ! grep -q 'Candidate: (none)' <<<"$policy"; fi
}

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_packages() {
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    fail "no apt on this machine: install the packages that scripts/build.sh lists by hand and build with cmake --preset release"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  local wanted=(
    g++ cmake ninja-build pkg-config git
    nlohmann-json3-dev libcli11-dev libcpp-httplib-dev libfmt-dev libspdlog-dev libhwy-dev libpcre2-dev
    libsqlite3-dev libssl-dev libutf8proc-dev
    libbenchmark-dev libgmock-dev libgtest-dev libopenblas-dev)
  local missing=() package
  for package in "${wanted[@]}"; do
    is_installed "$package" || missing+=("$package")
  done
  [ -e /usr/include/boost/process/v2.hpp ] || missing+=(boost)
  # For the page. Node may come from elsewhere, and npm with it.
  command -v node >/dev/null || missing+=(nodejs)
  command -v npm >/dev/null || missing+=(npm)
  for package in "$@"; do
    is_installed "$package" || ! may_exist "$package" || missing+=("$package?")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
    fail "to be installed by root: ${missing[*]} (boost is libboost-dev from 1.81 on)"
  # Bare images come without package lists; before there are any, not even the name of Boost's package is known.
  say "fetching package lists: ${as_root[*]:+sudo }apt-get update"
  "${as_root[@]}" apt-get update -qq
  local i
  for i in "${!missing[@]}"; do
    [ "${missing[$i]}" != boost ] || missing[$i]=$(boost_package)
  done
  for i in "${!missing[@]}"; do  # a name with a question mark is optional
    [[ ${missing[$i]} != *\? ]] || { may_exist "${missing[$i]%\?}" && missing[$i]=${missing[$i]%\?} || unset "missing[$i]"; }
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing: ${missing[*]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

build_folder() { [ "$1" = release ] && echo build || echo "build-$1"; }

build() {
  local preset=$1 folder
  folder=$(build_folder "$preset")
  if [ ! -f "$folder/build.ninja" ]; then
    say "configuring $folder"
    # nvcc is often installed without being on the path.
    if [ -z "${CUDACXX:-}" ] && ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then
      export CUDACXX=/usr/local/cuda/bin/nvcc
    fi
    cmake --preset "$preset" >"configure-$preset.log" 2>&1 || {
      tail -n 30 "configure-$preset.log" >&2
      fail "the build could not be configured"
    }
    rm -f "configure-$preset.log"
  fi
  say "building $folder (the first time takes some minutes)"
  ninja -C "$folder" >&2
}
