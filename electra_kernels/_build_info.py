"""What the build left behind: the compiled module, or why there is none."""

import importlib
import json
from pathlib import Path
from typing import Any


def build_info() -> dict[str, Any]:
    """``built``, ``reason`` (None if built), and of a built module its version, compiler, flags and libraries."""
    try:
        module = importlib.import_module("electra_kernels._C")
    except ImportError as error:
        return {"built": False, "reason": _recorded_reason() or str(error)}
    names = ("version", "compiler", "flags", "architecture", "libraries")
    return {"built": True, "reason": None, **{name: getattr(module, name) for name in names}}


def _recorded_reason() -> str | None:
    path = Path(__file__).parent / "_build.json"
    if not path.exists():
        return "setup.py was not run"
    reason: str | None = json.loads(path.read_text())["reason"]
    return reason
