"""Builds ``electra_kernels._C``; everything else about the package stands in pyproject.toml.

The extension is optional. A build that fails prints its first error line, leaves the reason in
``electra_kernels/_build.json`` for ``backends()`` and ``electra-kernels doctor``, and the install goes on;
with ELECTRA_KERNELS_BUILD=require it fails the install.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
FLAGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"]


def version() -> str:
    text = (ROOT / "electra_kernels" / "_version.py").read_text()
    return re.search(r'__version__ = "(.+)"', text)[1]


def pybind11_include() -> list[str]:
    """Absent pybind11 is one more reason for a build to fail, reported like the others."""
    try:
        import pybind11
    except ImportError:
        return []
    return [pybind11.get_include()]


class BuildOrExplain(build_ext):
    """Compiles each extension in a process of its own, so that the compiler's words can be kept."""

    def build_extension(self, extension: Extension) -> None:
        reason = self._compile(extension)
        if reason is not None:
            if os.environ.get("ELECTRA_KERNELS_BUILD") == "require":
                raise SystemExit(f"{extension.name} is required but was not built: {reason}")
            print(f"warning: {extension.name} was not built, going on without it: {reason}", file=sys.stderr)
        self._record(extension, reason)

    def _compile(self, extension: Extension) -> str | None:
        """None, or the first error line."""
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "g++").split()
        flags = [*FLAGS, "-shared", "-fPIC", *(f"-D{name}={value}" for name, value in extension.define_macros)]
        includes = [f"-I{path}" for path in [*self.include_dirs, *extension.include_dirs]]
        command = [*compiler, *flags, *includes, *extension.sources, "-o", str(target)]
        try:
            process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        except OSError as error:
            return f"compiler {compiler[0]!r} cannot be run: {error.strerror}"
        sys.stderr.write(process.stderr)
        if process.returncode == 0:
            return None
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        lines = process.stderr.splitlines()
        errors = (line for line in lines if "error" in line)
        return next(errors, f"{compiler[0]} ended with status {process.returncode}")

    def _record(self, extension: Extension, reason: str | None) -> None:
        package = ROOT if self.inplace else Path(self.build_lib)
        path = package / "electra_kernels" / "_build.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"built": reason is None, "reason": reason}) + "\n")

    def get_outputs(self) -> list[str]:
        """Only what was built, so that the install of a failed build finds nothing missing."""
        return [output for output in super().get_outputs() if Path(output).exists()]

    def copy_extensions_to_source(self) -> None:
        """``build_extension`` has written to the final place already."""


extension = Extension(
    "electra_kernels._C",
    sources=["csrc/bindings.cpp"],
    include_dirs=pybind11_include(),
    define_macros=[
        ("ELECTRA_KERNELS_VERSION", f'"{version()}"'),
        ("ELECTRA_KERNELS_FLAGS", f'"{" ".join(FLAGS)}"'),
    ],
)

setup(ext_modules=[extension], cmdclass={"build_ext": BuildOrExplain})
