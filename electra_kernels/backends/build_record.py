"""The record of the build: which libraries it made, how, and why one is missing."""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from electra_kernels._version import __version__

_RECORD = Path(__file__).parents[1] / "_build.json"
_TABLE = Path(__file__).parent / "table.py"
_LIBRARIES = ("_cpp", "_cuda", "_C")
_FACTS = ("compiler", "flags", "architecture", "libraries")


def missing() -> dict[str, str]:
    """Library → why the build did not make it; libraries that were made are left out."""
    if not _RECORD.exists():
        return dict.fromkeys(_LIBRARIES, "setup.py was not run")
    record = json.loads(_RECORD.read_text())
    version = record.get("version", "unknown")
    if version != __version__:
        reason = f"it was built for version {version}, this is {__version__}: install again"
        return dict.fromkeys(_LIBRARIES, reason)
    # A kernel reads its arguments by the schema that it was built for: with another one it would crash.
    if record.get("table") != hashlib.sha256(_TABLE.read_bytes()).hexdigest():
        return dict.fromkeys(_LIBRARIES, "it was built for another table of ops: install again")
    reasons: dict[str, str] = record["missing"]
    return reasons


def build_info() -> dict[str, Any]:
    """Facts about the build for people: compiler, flags and instruction sets, from the module ``_C``.

    Returns:
        ``missing``: library → why it is missing. Unless ``_C`` itself is missing, also ``compiler``, ``flags``,
        ``architecture``, and ``libraries``: name → instruction sets or generations of GPUs.
    """
    reasons = missing()
    if "_C" in reasons:
        return {"missing": reasons}
    try:
        module = importlib.import_module("electra_kernels._C")
    except ImportError as error:
        # Unlike the kernels, the module works only with the Python that built it.
        return {"missing": reasons | {"_C": f"it was built, but not for here: {error}"}}
    return {"missing": reasons, **{name: getattr(module, name) for name in _FACTS}}
