#!/usr/bin/env bash
# Build the wheel, install it with the core packages in a fresh environment, and try it there. Needs uv.
# Usage: tools/try_wheel.sh
set -euo pipefail
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
uv build --quiet --wheel --out-dir "$place"
${PYTHON:-python3} -m venv "$place/venv"
uv pip install --quiet --python "$place/venv/bin/python" --torch-backend "${TORCH_BACKEND:-cpu}" "$place"/sdst-*.whl
tools/smoke.sh "$place/venv/bin/sdst"
