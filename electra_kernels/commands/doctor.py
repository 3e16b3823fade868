"""``electra-kernels doctor``: what this installation can do on this machine, and why it cannot do more."""

import argparse
import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

import torch

from electra_kernels import backends
from electra_kernels._version import __version__
from electra_kernels.backends.build_record import build_info
from electra_kernels.commands.options import Commands
from electra_kernels.errors import UserError

_PACKAGES = ("numpy", "triton", "transformers", "tokenizers", "safetensors", "matplotlib", "rich", "scipy")


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "doctor", help="installed versions, and which back end serves which op, or why none does"
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    print(as_json() if arguments.json else report(), flush=True)
    return 0


def diagnose() -> dict[str, Any]:
    """Facts about the installation and the machine, by topic.

    Returns:
        ``versions``: package → version, or None if it is not installed. ``cpu``: architecture, instruction set,
        threads. ``gpu``: ``devices``, and the ``reason`` if there are none. ``build``: compiler, flags, libraries,
        and why one is missing. ``backends``: the result of `electra_kernels.backends`. ``cache``: the folder of
        downloads, or why there is none.
    """
    return {
        "versions": _versions(),
        "cpu": _cpu(),
        "gpu": _gpu(),
        "build": build_info(),
        "backends": backends(),
        "cache": _cache(),
    }


def as_json() -> str:
    """`diagnose` as JSON, in which ``serving`` of ``backends`` is op → device → back end."""
    facts = diagnose()
    serving: dict[str, dict[str, str]] = {}
    for (op, device), backend in facts["backends"].serving.items():
        serving.setdefault(op, {})[device] = backend
    facts["backends"] = {**dataclasses.asdict(facts["backends"]), "serving": serving}
    return json.dumps(facts, indent=2)


def report() -> str:
    """`diagnose` as text, one fact per line."""
    facts = diagnose()
    versions = {name: version or "not installed" for name, version in facts["versions"].items()}
    sections = [
        _section("versions", versions),
        _section("CPU", facts["cpu"]),
        _section("GPU", _gpu_lines(facts["gpu"])),
        _section("build", _build_lines(facts["build"])),
        f"back ends\n{_indent(str(facts['backends']))}",
        _section("cache", {"folder": facts["cache"]}),
    ]
    return "\n\n".join(sections)


def _cache() -> str:
    from electra_kernels.data.fetch import cache_directory

    try:
        return str(cache_directory())
    except UserError as error:
        return f"none: {error}"


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "electra_kernels": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
    }
    return versions | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    from electra_kernels.models.precision import has_native_bfloat16

    return {
        "architecture": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "native bfloat16": has_native_bfloat16(torch.device("cpu")),
        "threads": torch.get_num_threads(),
    }


def _gpu() -> dict[str, Any]:
    if torch.version.cuda is None:
        return {"devices": [], "reason": "this torch is built without CUDA"}
    if not torch.cuda.is_available():
        return {"devices": [], "reason": f"torch for CUDA {torch.version.cuda} finds no device"}
    return {"devices": [_device(index) for index in range(torch.cuda.device_count())], "reason": None}


def _device(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "gibibytes": round(properties.total_memory / 2**30, 1),
    }


def _gpu_lines(gpu: Mapping[str, Any]) -> dict[str, str]:
    if not gpu["devices"]:
        return {"none": gpu["reason"]}
    return {
        f"cuda:{index}": f"{device['name']}, capability {device['capability']}, {device['gibibytes']} GiB"
        for index, device in enumerate(gpu["devices"])
    }


def _build_lines(build: Mapping[str, Any]) -> dict[str, str]:
    lines = {f"no {name}": reason for name, reason in build["missing"].items()}
    if "_C" in build["missing"]:
        return lines
    libraries = (f"{name} ({', '.join(targets)})" for name, targets in build["libraries"].items())
    return {
        "compiler": f"{build['compiler']} for {build['architecture']}",
        "flags": build["flags"],
        "libraries of kernels": ", ".join(libraries) or "none",
        **lines,
    }


def _section(title: str, facts: Mapping[str, Any]) -> str:
    width = max(map(len, facts))
    words = {True: "yes", False: "no"}
    lines = (
        f"{name:{width}}  {words[value] if isinstance(value, bool) else value}"
        for name, value in facts.items()
    )
    return title + "\n" + _indent("\n".join(lines))


def _indent(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
