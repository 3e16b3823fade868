"""The results of the build: which libraries exist, how they were built, and why others are missing."""

import importlib
import json
from pathlib import Path
from typing import Any

from electra_kernels._version import __version__

_RECORD = Path(__file__).parent / "_build.json"
_LIBRARIES = ("_cpp", "_cuda", "_C")
_FACTS = ("compiler", "flags", "architecture", "libraries")


def missing() -> dict[str, str]:
    """Library → why the build left none. Libraries that can be used are not listed."""
    if not _RECORD.exists():
        return dict.fromkeys(_LIBRARIES, "setup.py was not run")
    record = json.loads(_RECORD.read_text())
    version = record.get("version", "unknown")
    if version != __version__:
        reason = f"it was built for version {version}, this is {__version__}: install again"
        return dict.fromkeys(_LIBRARIES, reason)
    reasons: dict[str, str] = record["missing"]
    return reasons


def build_info() -> dict[str, Any]:
    """Facts about the build that ``_C`` records, for people to read.

    Returns:
        ``missing``: library → why it is not there. If ``_C`` is not missing, also ``compiler``, ``flags``,
        ``architecture`` and ``libraries``: name → instruction sets or generations of GPUs.
    """
    reasons = missing()
    if "_C" in reasons:
        return {"missing": reasons}
    try:
        module = importlib.import_module("electra_kernels._C")
    except ImportError as error:
        # Unlike the libraries of kernels, _C works only with the Python version that it was built for.
        return {"missing": reasons | {"_C": f"it was built, but not for here: {error}"}}
    return {"missing": reasons, **{name: getattr(module, name) for name in _FACTS}}
