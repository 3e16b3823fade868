"""Builds ``electra_kernels._C``; everything else about the package stands in pyproject.toml.

The extension is optional. A build that fails prints its first error line, leaves the reason in
``electra_kernels/_build.json`` for ``backends()`` and ``electra-kernels doctor``, and the install goes on;
with ELECTRA_KERNELS_BUILD=require it fails the install.
"""

import json
import os
import re
import shutil
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
    """Compiles each extension in a process of its own, so that the compiler's words can be kept.

    As in setuptools, everything is written below ``build_lib``, from where a wheel is packed; for an editable
    install it is copied into the source tree afterwards.
    """

    def build_extension(self, extension: Extension) -> None:
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # A module that an earlier build left here must not pass for what this one made.
        target.unlink(missing_ok=True)
        reason = self._compile(extension, target)
        if reason is not None:
            if os.environ.get("ELECTRA_KERNELS_BUILD") == "require":
                raise SystemExit(f"{extension.name} is required but was not built: {reason}")
            print(f"warning: {extension.name} was not built, going on without it: {reason}", file=sys.stderr)
        self._record().write_text(json.dumps({"built": reason is None, "reason": reason}) + "\n")

    def _compile(self, extension: Extension, target: Path) -> str | None:
        """None, or the first error line."""
        compiler = os.environ.get("CXX", "g++").split()
        macros = [f"-D{name}={value}" for name, value in extension.define_macros]
        includes = [f"-I{path}" for path in [*self.include_dirs, *extension.include_dirs]]
        command = [*compiler, *FLAGS, *macros, "-shared", "-fPIC", *includes, *extension.sources]
        command += ["-o", str(target.absolute())]
        english = os.environ | {"LC_ALL": "C"}
        try:
            process = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=english)
        except OSError as error:
            return f"compiler {compiler[0]!r} cannot be run: {error.strerror}"
        sys.stderr.write(process.stderr)
        if process.returncode == 0:
            return None
        errors = (line for line in process.stderr.splitlines() if "error" in line)
        return next(errors, f"{compiler[0]} ended with status {process.returncode}")

    def _record(self) -> Path:
        return Path(self.build_lib) / "electra_kernels" / "_build.json"

    def get_outputs(self) -> list[str]:
        """Only what was built, so that the install of a failed build finds nothing missing."""
        outputs = [*super().get_outputs(), str(self._record())]
        return [output for output in outputs if Path(output).exists()]

    def copy_extensions_to_source(self) -> None:
        package = ROOT / "electra_kernels"
        for extension in self.extensions:
            built = Path(self.build_lib) / self.get_ext_filename(extension.name)
            (package / built.name).unlink(missing_ok=True)
            if built.exists():
                shutil.copy2(built, package)
        shutil.copy2(self._record(), package)


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
