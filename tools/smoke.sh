#!/usr/bin/env bash
# Try an installed sdst without videos and without training. Usage: tools/smoke.sh PATH_OF_SDST
set -euo pipefail
sdst=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
run=$(cd "$(dirname "$0")/.." && pwd)/tests/data/run_of_6d3aee6
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place" # not the repository, whose folders an installed wheel must not need

"$sdst" --version
"$sdst" --help >/dev/null
"$sdst" predict --checkpoint "$run/checkpoints/best.ckpt" --features "$run/corpus/features.h5" \
  --annotations "$run/corpus/val.jsonl" --out predictions.jsonl
"$sdst" evaluate predictions.jsonl "$run/corpus/val.jsonl"
"$sdst" report table5 >/dev/null
"$sdst" train --cfg job data=qvhighlights >/dev/null

status=0
"$sdst" predict --checkpoint missing.ckpt --features "$run/corpus/features.h5" 2>refused || status=$?
[ "$status" = 2 ] && [ "$(wc -l <refused)" = 1 ] || { echo "a missing checkpoint gives status $status:" && cat refused && exit 1; }
echo "predict, evaluate, report, configuration and a refusal: ok"
