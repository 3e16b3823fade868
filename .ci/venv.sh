#!/usr/bin/env bash
# usage: venv.sh PYTHON FOLDER
# Makes the virtual environment that every make target runs in, and installs the packages that pyproject.toml names, in
# the versions of constraints.txt.
set -euo pipefail
python=$1 venv=$2 log=$2/pip.log

if ! "$python" -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null; then
  echo "PYTHON=$python is not Python 3.11 or newer, which the pinned packages need" >&2
  exit 1
fi

options=()
torch_is_there='import torch; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)'
# An interrupted run leaves the file `unfinished`, and maybe packages that lack some files but count as installed for pip.
# So the environment is made again.
if [ -e "$venv/unfinished" ] || [ ! -x "$venv/bin/python" ]; then
  rm -rf "$venv"
  mkdir -p "$venv"
  touch "$venv/unfinished"
  if "$python" -c "$torch_is_there" 2>/dev/null; then
    echo "Making $venv around the torch that $python has"
    "$python" -m venv --system-site-packages "$venv"
    # If that Python is itself in a virtual environment, the line above only gives access to the packages of its base.
    "$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
      >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch_that_is_there.pth"
    # Its other packages are not used, because their programs would be missing in this environment.
    options=(--ignore-installed)
  else
    echo "Making $venv"
    "$python" -m venv "$venv"
  fi
fi
touch "$venv/unfinished"

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
explain() {
  grep -v '^WARNING' "$log" >&2
  exit 1
}
# Prints one line per package. All of pip's output goes to a log, which is shown if pip fails.
pip_install() {
  pip install "$@" 2>&1 | tee "$log" |
    sed -un 's/^ *\(Downloading\|Using cached\|Processing\) \(.*\/\)\?\([^ ]*\)/  \3/p; s/^Installing .*/  installing/p' ||
    explain
}

if ! "$venv/bin/python" -c "$torch_is_there" 2>/dev/null; then
  echo "Installing torch"
  # Triton is not pinned here: torch requires a certain version.
  grep -v '^triton==' .ci/constraints.txt >"$venv/constraints.txt"
  if [ -t 1 ]; then
    # This is the one large download: show pip's progress bar, which needs a terminal.
    pip install -c "$venv/constraints.txt" torch==2.13.0 2>"$log" || explain
  else
    pip_install -c "$venv/constraints.txt" torch==2.13.0
  fi
fi

# An installed torch and its Triton are kept, whatever the constraints or a dependency say.
"$venv/bin/python" - "$venv" <<'PYTHON'
import importlib.metadata
import sys
import tomllib
from pathlib import Path

pins = dict(line.split("==") for line in Path(".ci/constraints.txt").read_text().split())
present = {package.name: package.version for package in importlib.metadata.distributions()}
pins |= {name: present[name] for name in ("torch", "triton") if name in present}
venv = Path(sys.argv[1])
(venv / "constraints.txt").write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))

settings = tomllib.loads(Path("pyproject.toml").read_text())
groups = [settings["build-system"]["requires"], settings["project"]["dependencies"]]
groups += settings["project"]["optional-dependencies"].values()
names = {name for group in groups for name in group if not name.startswith(("electra_kernels[", "torch>="))}
(venv / "requirements.txt").write_text("".join(f"{name}\n" for name in sorted(names)))
PYTHON
echo "Installing what pyproject.toml names"
# seqeval is a source archive. The old way of building it fetches its build requirement without what that requires.
pip_install "${options[@]}" --use-pep517 -c "$venv/constraints.txt" -r "$venv/requirements.txt"
rm "$venv/unfinished"
