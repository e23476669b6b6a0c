#!/usr/bin/env bash
# Write requirements/*.txt: the versions of the environment that ran the tests, for every system and version of Python.
# Without torch and what comes with its builds for GPUs, because the build depends on the machine.
# Needs uv (pip install uv). Usage: tools/lock.sh [PYTHON OF THE ENVIRONMENT]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
versions=$(mktemp)
trap 'rm -f "$versions"' EXIT
"$python" -m pip freeze --exclude sdst | sed -E 's/\+[a-z0-9.]+$//' >"$versions"

lock() {
  local name=$1 extras
  mapfile -t extras < <(printf -- '--extra=%s\n' "${@:2}")
  {
    echo "# Made by tools/lock.sh; used by LOCKED=1 of make."
    uv pip compile pyproject.toml --quiet --universal --python-version 3.11.5 --constraint "$versions" \
      --no-annotate --no-header "${extras[@]}" | grep -vE '^(torch==|triton==|cuda-|nvidia-)'
  } >"requirements/$name.txt"
}

lock demo extract plot train
lock test dev
