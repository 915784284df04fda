#!/usr/bin/env bash
# Builds the virtual environment: the pinned stack, PyTorch's CPU build where there is no NVIDIA GPU, this package (editable).
set -euo pipefail
python="${PYTHON:-python3}"
venv="${VENV:-.venv}"
torch_version=$(sed -n 's/^torch==//p' constraints.txt)

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "neuroimagen needs Python 3.11 or later; '$python' is $("$python" --version 2>&1). Choose another with make PYTHON=python3.12 …" >&2
  exit 1
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

if ! "$venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$torch_version')" 2>/dev/null; then
  echo "set-up: PyTorch $torch_version"
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    pip install "torch==$torch_version"
  else
    # The configured index may have the CPU build. If not, uv installs it from PyTorch's index. The default wheel works on a CPU
  # too, but is larger.
    pip install "torch==$torch_version+cpu" 2>/dev/null ||
      { pip install uv && "$venv/bin/python" -m uv pip install --quiet --python "$venv/bin/python" --torch-backend=cpu "torch==$torch_version"; } ||
      pip install "torch==$torch_version"
  fi
fi
echo "set-up: the rest of the stack (a minute or two)"
pip install -c constraints.txt setuptools wheel
pip install -c constraints.txt --no-build-isolation -e '.[dev]'
"$venv/bin/python" "$venv/bin/neuroimagen" doctor || echo "set-up: see the lines marked MISS above"
