#!/usr/bin/env bash
# Builds the virtual environment: the pinned stack, PyTorch's CPU build where there is no NVIDIA GPU, this package (editable).
# uv installs it, because it is quicker; pip does where uv cannot be had or fails.
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

# uv does not read pip's configuration. An index, certificate or constraint that this machine needs is passed on, and packages are
# taken from any of the indexes, as pip does.
uv_settings() {
  "$venv/bin/python" -m pip config list | "$venv/bin/python" -c '
import ast, shlex, sys
settings = {}
for line in sys.stdin:
    key, _, value = line.strip().partition("=")
    section, _, name = key.rpartition(".")
    if section in ("global", "install", ":env:"):  # in this order: the later ones take precedence
        settings[name] = ast.literal_eval(value).split()
names = {"index-url": ("UV_DEFAULT_INDEX", " "), "extra-index-url": ("UV_INDEX", " "), "find-links": ("UV_FIND_LINKS", ","),
         "constraint": ("UV_CONSTRAINT", " "), "cert": ("SSL_CERT_FILE", " "), "trusted-host": ("UV_INSECURE_HOST", " ")}
for name, (variable, separator) in names.items():
    if name in settings:
        print(f"export {variable}={shlex.quote(separator.join(settings[name]))}")
'
}

with_uv=0
if pip install uv 2>/dev/null && settings=$(uv_settings); then
  eval "$settings"
  export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
  with_uv=1
fi
install() {
  if [ "$with_uv" = 1 ]; then
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" "$@" && return
    with_uv=0
    echo "set-up: uv could not install it (above); pip goes on" >&2
  fi
  pip install "$@"
}

if ! "$venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$torch_version')" 2>/dev/null; then
  echo "set-up: PyTorch $torch_version"
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    install "torch==$torch_version"
  else
    # The configured index may have the CPU build. If not, uv installs it from PyTorch's index. The default wheel works on a CPU
    # too, but is larger.
    { [ "$with_uv" = 1 ] && {
      "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" "torch==$torch_version+cpu" 2>/dev/null ||
        "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend=cpu "torch==$torch_version" 2>/dev/null
    }; } || pip install "torch==$torch_version+cpu" 2>/dev/null || pip install "torch==$torch_version"
  fi
fi
echo "set-up: the rest of the stack (a minute or two)"
install -c constraints.txt setuptools wheel
install -c constraints.txt --no-build-isolation -e '.[dev,docs]'
"$venv/bin/python" "$venv/bin/neuroimagen" doctor || echo "set-up: see the lines marked MISS above"
