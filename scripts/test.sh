#!/usr/bin/env bash
# Builds everything and runs the tests.
#
#   scripts/test.sh [PRESET] [ctest arguments]    PRESET: release (default), asan or tsan
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/build.sh"
preset=release
case "${1:-}" in
  release | asan | tsan) preset=$1; shift ;;
esac

# The page's tests need a Chromium; where there is none to be had they are skipped, and say so.
command -v chromium >/dev/null || command -v google-chrome >/dev/null || browser=chromium
install_packages ${browser:-}
# Likewise those of the Slurm launcher, which need a Slurm (3 MB) and root to start one of their own.
if [ "$(id -u)" -eq 0 ] && ! command -v slurmctld >/dev/null; then
  (install_packages slurmctld slurmd slurm-client munge) || say "no Slurm to be had: its tests are skipped"
fi
build "$preset"
say "testing $(build_folder "$preset")"
options=(-j "$(nproc)" --output-on-failure --no-tests=error)
[ ! -t 1 ] || options+=(--progress)
result=0
ctest --test-dir "$(build_folder "$preset")" "${options[@]}" "$@" || result=$?
# What was skipped says why only in the log.
awk '/: Skipped$/ { getline; print "skipped: " $0 }' "$(build_folder "$preset")/Testing/Temporary/LastTest.log" | sort | uniq -c
exit "$result"
