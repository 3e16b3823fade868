"""What the build left behind: the compiled module, or why there is none."""

import importlib
import json
from pathlib import Path
from typing import Any

from electra_kernels._version import __version__

_RECORD = Path(__file__).parent / "_build.json"


def build_info() -> dict[str, Any]:
    """``built``, ``reason`` (None if built), and of a built module version, compiler, flags, libraries, and
    ``missing``: library of kernels → why it was not built."""
    try:
        module = importlib.import_module("electra_kernels._C")
    except ImportError as error:
        reason = _record()["reason"] or f"it was built, but not for here: {error}"
        return {"built": False, "reason": reason}
    names = ("version", "compiler", "flags", "architecture", "libraries")
    found = {name: getattr(module, name) for name in names}
    if found["version"] != __version__:
        reason = f"it was built for version {found['version']}, this is {__version__}: install again"
        return {"built": False, "reason": reason}
    return {"built": True, "reason": None, **found, "missing": _record()["missing"]}


def _record() -> dict[str, Any]:
    if not _RECORD.exists():
        return {"reason": "setup.py was not run", "missing": {"cpp": "setup.py was not run"}}
    record: dict[str, Any] = json.loads(_RECORD.read_text())
    return record
