#!/usr/bin/env bash
# Install sdst with the locked versions into a new environment, as the Dockerfile does. Needs uv.
# Usage: tools/install_image.sh FOLDER. TORCH_BACKEND chooses the build of torch (cpu, cu130, ...), else uv's default.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv --without-pip "$1"
# Compiled here, because users of the image cannot write into its environment.
uv pip install --quiet --no-cache --compile-bytecode --python "$1/bin/python" \
  ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} --constraint requirements/demo.txt \
  torch==2.13.0 '.[extract,plot,train]'
"$1/bin/sdst" --version
