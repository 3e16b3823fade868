"""What the build left behind: the compiled module, or why there is none."""

import importlib
import json
from pathlib import Path
from typing import Any

from electra_kernels._version import __version__

_RECORD = Path(__file__).parent / "_build.json"


def build_info() -> dict[str, Any]:
    """``built``, ``reason`` (None if built), and of a built module version, compiler, flags, libraries."""
    try:
        module = importlib.import_module("electra_kernels._C")
    except ImportError as error:
        return {"built": False, "reason": _recorded_reason() or f"it was built, but not for here: {error}"}
    names = ("version", "compiler", "flags", "architecture", "libraries")
    found = {name: getattr(module, name) for name in names}
    if found["version"] != __version__:
        reason = f"it was built for version {found['version']}, this is {__version__}: install again"
        return {"built": False, "reason": reason}
    return {"built": True, "reason": None, **found}


def _recorded_reason() -> str | None:
    if not _RECORD.exists():
        return "setup.py was not run"
    reason: str | None = json.loads(_RECORD.read_text())["reason"]
    return reason
