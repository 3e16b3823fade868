"""Builds ``electra_kernels._cpp``, the CPU kernels, ``electra_kernels._cuda``, the CUDA kernels, and
``electra_kernels._C``, which says what was built.

Everything else about the package stands in pyproject.toml. All are optional. A build that fails prints its first
error line, leaves the reason in ``electra_kernels/_build.json`` for ``backends()`` and ``electra-kernels doctor``,
and the install goes on. ELECTRA_KERNELS_BUILD=require makes a failure of the CPU kernels or of ``_C`` one of the
install, ELECTRA_KERNELS_CUDA=1 one of the CUDA kernels. These are built where nvcc is, for which no GPU is needed;
ELECTRA_KERNELS_CUDA=0 leaves them out. They are built for the GPUs of TORCH_CUDA_ARCH_LIST, as "9.0" or "8.0;9.0+PTX",
by default for all GENERATIONS.
"""

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
FLAGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-fPIC"]

# The kernels are compiled once per level and choose among them at run time. No contraction: the compiler fuses
# nothing that the source does not, so that a level's results do not depend on the compiler.
KERNEL_FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
LEVELS = {
    "x86_64": {"sse2": [], "avx2": _AVX2, "avx512": _AVX512, "avx512_bf16": [*_AVX512, "-mavx512bf16"]},
    "aarch64": {"neon": []},
}.get(platform.machine(), {"scalar": []})

# CUDA kernels for each generation, and PTX for those to come. -fmad=false: no contraction here either. --threads=0: the
# generations of a file are compiled side by side.
GENERATIONS = (80, 90, 100)
CUDA_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "--expt-relaxed-constexpr",
    "-Xcompiler=-Wall,-Wextra,-fvisibility=hidden,-fPIC",
    "--threads=0",
]
ARCHITECTURES = [*(f"sm_{number}" for number in GENERATIONS), f"compute_{GENERATIONS[-1]}"]

# The stable ABI of torch 2.11: the library serves every later torch too.
TORCH_FLAGS = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
OBJECTS = ROOT / "build" / "objects"


class BuildError(Exception):
    """The message is the first error line."""


def version() -> str:
    text = (ROOT / "electra_kernels" / "_version.py").read_text()
    return re.search(r'__version__ = "(.+)"', text)[1]


def pybind11_include() -> list[str]:
    """Where pybind11 is not installed, torch has its headers; without either the build fails and says so."""
    try:
        import pybind11
    except ImportError:
        try:
            return [str(torch_folder() / "include")]
        except BuildError:
            return []
    return [pybind11.get_include()]


@functools.cache
def torch_folder() -> Path:
    """Headers and libraries of the torch that is here, which is not imported.

    pip builds in an isolated environment, without torch and without a need to download it: the Python that runs
    there is that of the environment which the package is for, and without pip's path it knows its torch.
    """
    find = (
        "import importlib.util; spec = importlib.util.find_spec('torch'); print(spec.origin if spec else '')"
    )
    for options in ([], ["-I"]):
        found = subprocess.run([sys.executable, *options, "-c", find], capture_output=True, text=True).stdout
        if found.strip():
            return Path(found.strip()).parent
    raise BuildError(
        f"there is no torch for {sys.executable}: install torch first, or use --no-build-isolation"
    )


def host_compiler() -> list[str]:
    return os.environ.get("CXX", "g++").split()


def cuda_compiler() -> list[str]:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if found is None:
        raise BuildError(f"there is no nvcc, neither on the PATH nor in {home}/bin (CUDA_HOME)")
    return [found]


def compile_and_link(command: list[str], compiler: list[str] | None = None) -> None:
    """Run the compiler, by default that of the host; its words are kept."""
    compiler = compiler or host_compiler()
    english = os.environ | {"LC_ALL": "C"}
    try:
        process = subprocess.run(
            [*compiler, *command], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=english
        )
    except OSError as error:
        raise BuildError(f"compiler {compiler[0]!r} cannot be run: {error.strerror}") from error
    sys.stderr.write(process.stderr)
    if process.returncode != 0:
        errors = (line for line in process.stderr.splitlines() if "error" in line)
        raise BuildError(next(errors, f"{compiler[0]} ended with status {process.returncode}"))


def kernel_commands(levels: dict[str, list[str]], extra: tuple[str, ...] = ()) -> list[tuple[str, list[str]]]:
    """(object name, compiler arguments, source last): host sources once, kernels once per level, host sources
    first: they take longest. ``extra`` comes after the flags that it may override."""
    sources = sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))
    host = [source for source in sources if source.stem == "levels" or source.stem.endswith("_ops")]
    each_level = "-DEK_FOR_EACH_LEVEL(X)=" + " ".join(f"X({level})" for level in levels)
    # As system headers: their warnings are not ours.
    with_torch = [*TORCH_FLAGS, "-isystem", str(torch_folder() / "include")]
    commands = [
        (source.stem, [*FLAGS, *with_torch, each_level, *extra, "-c", str(source.relative_to(ROOT))])
        for source in host
    ]
    for level, flags in levels.items():
        options = [*FLAGS, *KERNEL_FLAGS, *flags, f"-DEK_LEVEL={level}", each_level, *extra]
        commands += [
            (f"{source.stem}-{level}", [*options, "-c", str(source.relative_to(ROOT))])
            for source in sources
            if source not in host
        ]
    return commands


def wanted_architectures() -> list[str]:
    """Those of TORCH_CUDA_ARCH_LIST in the words of ARCHITECTURES; GPUs older than the first generation are left out.

    Raises:
        BuildError: it names something else, or only older GPUs.
    """
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    wanted: list[str] = []
    for name in listed.replace(";", " ").split():
        found = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if found is None:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST names {name!r}, should be as '8.0;9.0+PTX'")
        number, variant = found[1] + found[2], found[3]
        if int(number) >= GENERATIONS[0]:
            wanted += [f"sm_{number}{variant}", *([f"compute_{number}{variant}"] if found[4] else [])]
    if listed.strip() and not wanted:
        raise BuildError(f"TORCH_CUDA_ARCH_LIST is {listed!r}, should name an architecture from 8.0 on")
    return list(dict.fromkeys(wanted)) or ARCHITECTURES


def cuda_commands(architectures: Sequence[str] = ARCHITECTURES) -> list[tuple[str, list[str]]]:
    """(object name, arguments of nvcc, source last)."""
    code = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures]
    with_torch = [*TORCH_FLAGS, "-DUSE_CUDA", "-isystem", str(torch_folder() / "include")]
    folder = ROOT / "csrc" / "cuda"
    sources = dict.fromkeys(folder.glob("*.cu"), code) | dict.fromkeys(folder.glob("*.cpp"), with_torch)
    return [
        (f"cuda_{source.stem}", [*CUDA_FLAGS, *flags, "-c", str(source.relative_to(ROOT))])
        for source, flags in sorted(sources.items())
    ]


def included(source: Path, folders: list[str]) -> list[Path]:
    """The source and all that it includes by a quoted name: beside the file that does, or in one of the folders."""
    found: set[Path] = set()
    ahead = [source.resolve()]
    while ahead:
        path = ahead.pop()
        found.add(path)
        for name in re.findall(r'^#\s*include "(.+)"', path.read_text(), re.MULTILINE):
            places = ((folder / name).resolve() for folder in (path.parent, *map(ROOT.joinpath, folders)))
            ahead += [place for place in [next(filter(Path.exists, places), path)] if place not in found]
    return sorted(found)


def build_objects(
    folder: Path, commands: list[tuple[str, list[str]]], compiler: list[str] | None = None
) -> list[Path]:
    """An object file is named by what it was made from, and made again only if that has changed."""
    folder.mkdir(parents=True, exist_ok=True)

    def build_object(command: tuple[str, list[str]]) -> Path:
        name, arguments = command
        folders = [argument[2:] for argument in arguments if argument.startswith("-I")]
        digest = hashlib.sha256("\0".join([*(compiler or host_compiler()), *arguments]).encode())
        for path in included(ROOT / arguments[-1], folders):
            digest.update(path.read_bytes())
        path = folder / f"{name}.{digest.hexdigest()[:16]}.o"
        if not path.exists():
            for stale in folder.glob(f"{name}.*.o"):
                stale.unlink()
            part = f"{path}.{os.getpid()}.part"  # another build may be at it
            compile_and_link([*arguments, "-o", part], compiler)
            Path(part).rename(path)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(build_object, commands))


def link_kernels(objects: list[Path], target: Path, extra: tuple[str, ...] = ()) -> None:
    torch = [f"-L{torch_folder() / 'lib'}", "-ltorch_cpu"]
    compile_and_link(["-shared", *extra, *map(str, objects), *torch, "-o", str(target.absolute())])


def link_cuda_kernels(objects: list[Path], target: Path) -> None:
    """With a CUDA runtime of its own, of which nothing is visible: torch's may be another version, or absent."""
    torch = [f"-L{torch_folder() / 'lib'}", "-ltorch_cpu"]
    options = ["-shared", "-cudart=static", "-Xlinker=--exclude-libs,ALL"]
    compile_and_link([*options, *map(str, objects), *torch, "-o", str(target.absolute())], cuda_compiler())


def build_module(
    extension: Extension, includes: list[str], built: dict[str, list[str]], target: Path
) -> None:
    table = ",".join(
        f'{{"{name}",{{{",".join(map(json.dumps, levels))}}}}}' for name, levels in built.items()
    )
    macros = [
        f'-DELECTRA_KERNELS_VERSION="{version()}"',
        f'-DELECTRA_KERNELS_FLAGS="{" ".join(FLAGS)}"',
        f"-DELECTRA_KERNELS_LIBRARIES={table}",
    ]
    paths = [f"-I{path}" for path in [*includes, *extension.include_dirs]]
    compile_and_link([*FLAGS, *macros, "-shared", *paths, *extension.sources, "-o", str(target.absolute())])


class BuildOrExplain(build_ext):
    """Runs the compiler in a process of its own for each library, so that its words can be kept.

    As in setuptools, everything is written below ``build_lib``, from where a wheel is packed; for an editable
    install it is copied into the source tree afterwards.
    """

    def build_extensions(self) -> None:
        self.built: dict[str, list[str]] = {}
        self.reasons: dict[str, str] = {}
        super().build_extensions()
        record = {"version": version(), "missing": self.reasons}
        self._record().write_text(json.dumps(record) + "\n")

    def build_extension(self, extension: Extension) -> None:
        name = extension.name.rpartition(".")[2]
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # A library that an earlier build left here must not pass for what this one made.
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
            build_module(extension, self.include_dirs, self.built, target)
        elif name == "_cpp":
            link_kernels(build_objects(OBJECTS, kernel_commands(LEVELS)), target)
            self.built["cpp"] = list(LEVELS)
        elif os.environ.get("ELECTRA_KERNELS_CUDA") == "0":
            raise BuildError("ELECTRA_KERNELS_CUDA is 0")
        else:
            architectures = wanted_architectures()
            link_cuda_kernels(build_objects(OBJECTS, cuda_commands(architectures), cuda_compiler()), target)
            self.built["cuda"] = architectures

    def _is_required(self, name: str) -> bool:
        if name == "_cuda":
            return os.environ.get("ELECTRA_KERNELS_CUDA") == "1"
        return os.environ.get("ELECTRA_KERNELS_BUILD") == "require"

    def get_ext_filename(self, fullname: str) -> str:
        """The kernels have no Python in them, so the names of their files have none either."""
        if fullname.endswith("._C") or fullname == "_C":
            return super().get_ext_filename(fullname)
        return fullname.replace(".", os.sep) + ".so"

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


class PlatformWheel(bdist_wheel):
    """For any Python: the kernels do not know it, and the package works without ``_C``, which does."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


extensions = [
    Extension("electra_kernels._cpp", sources=[]),
    Extension("electra_kernels._cuda", sources=[]),
    # Last: it holds the table of what was built before it.
    Extension("electra_kernels._C", sources=["csrc/bindings.cpp"], include_dirs=pybind11_include()),
]

# .ci/sanitize.py and tests/cuda_on_cpu import the functions above.
if __name__ == "__main__":
    setup(ext_modules=extensions, cmdclass={"build_ext": BuildOrExplain, "bdist_wheel": PlatformWheel})
