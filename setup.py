"""Builds ``electra_kernels._cpp`` (CPU kernels), ``electra_kernels._cuda`` (CUDA kernels) and ``electra_kernels._C``,
which says what was built. Everything else about the package stands in pyproject.toml.

All three are optional. If a build fails, it prints its first error line and leaves the reason in
``electra_kernels/_build.json`` for ``backends()`` and ``electra-kernels doctor``; the install continues. Variables:

- ``ELECTRA_KERNELS_BUILD=require``: the install fails if the CPU kernels or ``_C`` cannot be built.
- ``ELECTRA_KERNELS_CUDA=1``: the install fails if the CUDA kernels cannot be built; 0 leaves them out. By default they
  are built where nvcc is. No GPU is needed.
- ``TORCH_CUDA_ARCH_LIST``: the GPUs that the CUDA kernels are built for, as "9.0" or "8.0;9.0+PTX"; by default all
  GENERATIONS of csrc/build.py.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# pip's build runs this file without its folder on the path.
sys.path.insert(0, str(ROOT))

from csrc import build  # noqa: E402
from csrc.build import BuildError  # noqa: E402


def version() -> str:
    text = (ROOT / "electra_kernels" / "_version.py").read_text()
    return re.search(r'__version__ = "(.+)"', text)[1]


def pybind11_include() -> list[str]:
    """The headers of pybind11, else those that torch has; without either the build fails and says so."""
    try:
        import pybind11
    except ImportError:
        try:
            return [str(build.torch_folder() / "include")]
        except BuildError:
            return []
    return [pybind11.get_include()]


def build_info_module(
    extension: Extension, includes: list[str], built: dict[str, list[str]], target: Path
) -> None:
    table = ",".join(
        f'{{"{name}",{{{",".join(map(json.dumps, levels))}}}}}' for name, levels in built.items()
    )
    macros = [
        f'-DELECTRA_KERNELS_VERSION="{version()}"',
        f'-DELECTRA_KERNELS_FLAGS="{" ".join(build.FLAGS)}"',
        f"-DELECTRA_KERNELS_LIBRARIES={table}",
    ]
    paths = [f"-I{path}" for path in [*includes, *extension.include_dirs]]
    arguments = [*build.FLAGS, *macros, "-shared", *paths, *extension.sources]
    build.compile_and_link([*arguments, "-o", str(target.absolute())])


class BuildOrExplain(build_ext):
    """Builds each library, or records why it could not be built.

    Everything is written below ``build_lib``, as in setuptools, and a wheel is packed from there. For an editable
    install it is copied into the source tree afterwards.
    """

    def build_extensions(self) -> None:
        self.built: dict[str, list[str]] = {}
        self.reasons: dict[str, str] = {}
        super().build_extensions()
        # The package loads the kernels only with the table of ops that they were built for.
        table = hashlib.sha256((build.ROOT / "electra_kernels/backends/table.py").read_bytes()).hexdigest()
        record = {"version": version(), "table": table, "missing": self.reasons}
        self._record().write_text(json.dumps(record) + "\n")

    def build_extension(self, extension: Extension) -> None:
        name = extension.name.rpartition(".")[2]
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # A library of an earlier build must not pass for the result of this one.
        target.unlink(missing_ok=True)
        try:
            self._build(name, extension, target)
        except BuildError as reason:
            if self._is_required(name):
                raise SystemExit(f"{extension.name} is required but was not built: {reason}") from reason
            print(f"warning: {extension.name} was not built, going on without it: {reason}", file=sys.stderr)
            self.reasons[name] = str(reason)

    def _build(self, name: str, extension: Extension, target: Path) -> None:
        if name == "_C":
            build_info_module(extension, self.include_dirs, self.built, target)
        elif name == "_cpp":
            objects = build.build_objects(build.OBJECTS, build.kernel_commands(build.LEVELS))
            build.link_kernels(objects, target)
            self.built["cpp"] = list(build.LEVELS)
        elif os.environ.get("ELECTRA_KERNELS_CUDA") == "0":
            raise BuildError("ELECTRA_KERNELS_CUDA is 0")
        else:
            architectures = build.wanted_architectures()
            commands = build.cuda_commands(architectures)
            objects = build.build_objects(build.OBJECTS, commands, build.cuda_compiler())
            build.link_cuda_kernels(objects, target)
            self.built["cuda"] = architectures

    def _is_required(self, name: str) -> bool:
        if name == "_cuda":
            return os.environ.get("ELECTRA_KERNELS_CUDA") == "1"
        return os.environ.get("ELECTRA_KERNELS_BUILD") == "require"

    def get_ext_filename(self, fullname: str) -> str:
        """The libraries of kernels do not depend on Python, so their file names have no tag of a Python version."""
        if fullname.endswith("._C") or fullname == "_C":
            return super().get_ext_filename(fullname)
        return fullname.replace(".", os.sep) + ".so"

    def _record(self) -> Path:
        return Path(self.build_lib) / "electra_kernels" / "_build.json"

    def get_outputs(self) -> list[str]:
        """Return only the files that were built, so that the install of a partly failed build misses nothing."""
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


class PlatformWheel(bdist_wheel):
    """A wheel for any Python: only ``_C`` depends on the Python version, and the package works without it."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


extensions = [
    Extension("electra_kernels._cpp", sources=[]),
    Extension("electra_kernels._cuda", sources=[]),
    # This one is last, because it holds the table of the libraries that were built.
    Extension("electra_kernels._C", sources=["csrc/bindings.cpp"], include_dirs=pybind11_include()),
]

setup(ext_modules=extensions, cmdclass={"build_ext": BuildOrExplain, "bdist_wheel": PlatformWheel})
