#!/usr/bin/env bash
# Builds hproc and lets it find the operating point of the embedded model under a memory cap: about three minutes on two
# cores once it is built. The cap leaves no room for the model in INT4 with groups of 128.
#
#   scripts/demo.sh [FOLDER]    the study file, the logs and operating_point.json go to FOLDER (out)
set -euo pipefail
start=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/build.sh"
out=${1:-out}
if [ $# -gt 0 ] && [[ $out != /* ]]; then out=$start/$out; fi

install_packages
build release
mkdir -p "$out"
say "hproc tune under 17 MiB, 8 sequences of up to 640 tokens at once"
build/bin/hproc tune --model evals/wordmath/model --memory 17MiB --batch 8 --context 640 \
  --db "$out/study.db" --export "$out/operating_point.json"
say "the study: $out/study.db; the point with its evidence: $out/operating_point.json"
say "look closer: build/bin/hproc trials --db $out/study.db; build/bin/hproc show 2 --db $out/study.db"
