#!/usr/bin/env bash
# usage: venv.sh PYTHON FOLDER: makes the virtual environment that every make target runs in.
set -euo pipefail
python=$1 venv=$2

torch_is_there='import torch; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)'
if [ ! -x "$venv/bin/python" ]; then
  if "$python" -c "$torch_is_there" 2>/dev/null; then
    echo "Making $venv around the torch that $python has"
    "$python" -m venv --system-site-packages "$venv"
  else
    echo "Making $venv"
    "$python" -m venv "$venv"
  fi
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
if ! "$venv/bin/python" -c "$torch_is_there" 2>/dev/null; then
  echo "Installing torch"
  pip install --quiet --progress-bar on torch==2.13.0
fi
# The torch that is there is the torch that stays, also when a dependency would take a newer one.
"$venv/bin/python" -c 'import torch; print("torch==" + torch.__version__)' >"$venv/torch.txt"
echo "Installing the packages of .ci/constraints.txt, building electra_kernels"
pip install --quiet -c .ci/constraints.txt setuptools wheel pybind11
pip install --quiet -c .ci/constraints.txt -c "$venv/torch.txt" --no-build-isolation -e '.[dev]'
