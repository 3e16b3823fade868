"""How the compiled libraries are built: compilers, flags, commands, and a cache of object files.

setup.py makes the libraries with it. The sanitizers (.ci/sanitize.py), the fibers (tests/cuda_on_cpu) and the audit of
the generated code (benchmarks) compile the same sources with the same flags. The module imports only the standard
library, because pip builds in an environment without torch.
"""

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = ROOT / "build" / "objects"
FLAGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-fPIC"]

# The CPU kernels are compiled once per instruction-set level and choose among the levels at run time. Contraction is
# off: the compiler fuses a product and a sum only where the source does, so that a level's results do not depend on the
# compiler.
KERNEL_FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
LEVELS = {
    "x86_64": {"sse2": [], "avx2": _AVX2, "avx512": _AVX512, "avx512_bf16": [*_AVX512, "-mavx512bf16"]},
    "aarch64": {"neon": []},
}.get(platform.machine(), {"scalar": []})

# The CUDA kernels are compiled for each generation of GPUs, and as PTX for later ones. -fmad=false turns contraction
# off here as well. --threads=0 compiles the generations of a file in parallel.
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

# The stable ABI of torch 2.11: the libraries load with every later torch.
TORCH_FLAGS = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]

# A command is the name of its object file and the compiler's arguments, with the source last.
Command = tuple[str, list[str]]


class BuildError(Exception):
    """A build that failed; the message is the compiler's first error line, or says what is missing."""


# ---- compilers and torch ----------------------------------------------------------------------------------


def host_compiler() -> list[str]:
    return os.environ.get("CXX", "g++").split()


def cuda_compiler() -> list[str]:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if found is None:
        raise BuildError(f"there is no nvcc, neither on the PATH nor in {home}/bin (CUDA_HOME)")
    return [found]


@functools.cache
def torch_folder() -> Path:
    """The folder of the installed torch, with its headers and libraries; torch is not imported.

    pip builds in an isolated environment, so that torch is not downloaded for the build. The Python that runs there is
    still the one of the environment that the package is built for. Started without pip's path, it finds that
    environment's torch.
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


def torch_flags() -> list[str]:
    """Torch's headers count as system headers, whose warnings the compiler does not print."""
    return [*TORCH_FLAGS, "-isystem", str(torch_folder() / "include")]


def compile_and_link(arguments: list[str], compiler: list[str] | None = None) -> None:
    """Run the compiler, by default the host's.

    Raises:
        BuildError: it cannot be run, or it fails: then the message is its first error line.
    """
    compiler = compiler or host_compiler()
    english = os.environ | {"LC_ALL": "C"}
    try:
        process = subprocess.run(
            [*compiler, *arguments], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=english
        )
    except OSError as error:
        raise BuildError(f"compiler {compiler[0]!r} cannot be run: {error.strerror}") from error
    sys.stderr.write(process.stderr)
    if process.returncode != 0:
        errors = (line for line in process.stderr.splitlines() if "error" in line)
        raise BuildError(next(errors, f"{compiler[0]} ended with status {process.returncode}"))


# ---- commands ---------------------------------------------------------------------------------------------


def kernel_commands(levels: dict[str, list[str]], extra: tuple[str, ...] = ()) -> list[Command]:
    """Commands for the CPU library: host functions once, kernels once per level.

    The host functions come first because they take longest. ``extra`` stands behind the flags that it may override.
    """
    sources = sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))
    host = [source for source in sources if source.stem == "levels" or source.stem.endswith("_ops")]
    each_level = "-DEK_FOR_EACH_LEVEL(X)=" + " ".join(f"X({level})" for level in levels)
    commands = [
        (source.stem, [*FLAGS, *torch_flags(), each_level, *extra, "-c", str(source.relative_to(ROOT))])
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
    """The GPUs of TORCH_CUDA_ARCH_LIST, named as in ARCHITECTURES; GPUs before the first generation are left out.

    Raises:
        BuildError: TORCH_CUDA_ARCH_LIST names something else, or only older GPUs.
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


def cuda_commands(architectures: Sequence[str] = ARCHITECTURES) -> list[Command]:
    """Commands for the CUDA library, all of nvcc: kernels (*.cu) and host functions (*.cpp)."""
    code = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures]
    folder = ROOT / "csrc" / "cuda"
    with_torch = ["-DUSE_CUDA", *torch_flags()]
    sources = dict.fromkeys(folder.glob("*.cu"), code) | dict.fromkeys(folder.glob("*.cpp"), with_torch)
    return [
        (f"cuda_{source.stem}", [*CUDA_FLAGS, *flags, "-c", str(source.relative_to(ROOT))])
        for source, flags in sorted(sources.items())
    ]


# ---- object files and libraries ---------------------------------------------------------------------------


def included(source: Path, folders: list[str]) -> list[Path]:
    """The source and every file that it includes by a quoted name, from the includer's folder or one of ``folders``."""
    found: set[Path] = set()
    pending = [source.resolve()]
    while pending:
        path = pending.pop()
        found.add(path)
        for name in re.findall(r'^#\s*include "(.+)"', path.read_text(), re.MULTILINE):
            candidates = ((folder / name).resolve() for folder in (path.parent, *map(ROOT.joinpath, folders)))
            header = next(filter(Path.exists, candidates), path)
            if header not in found:
                pending.append(header)
    return sorted(found)


def build_objects(folder: Path, commands: list[Command], compiler: list[str] | None = None) -> list[Path]:
    """Compile what has changed. An object file's name has a hash of its command and of all the sources it includes."""
    folder.mkdir(parents=True, exist_ok=True)

    def build_object(command: Command) -> Path:
        name, arguments = command
        folders = [argument[2:] for argument in arguments if argument.startswith("-I")]
        digest = hashlib.sha256("\0".join([*(compiler or host_compiler()), *arguments]).encode())
        for path in included(ROOT / arguments[-1], folders):
            digest.update(path.read_bytes())
        path = folder / f"{name}.{digest.hexdigest()[:16]}.o"
        if not path.exists():
            for stale in folder.glob(f"{name}.*.o"):
                stale.unlink()
            part = f"{path}.{os.getpid()}.part"  # another build may write the same object now
            compile_and_link([*arguments, "-o", part], compiler)
            Path(part).rename(path)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(build_object, commands))


def link_kernels(objects: list[Path], target: Path, extra: tuple[str, ...] = ()) -> None:
    torch = [f"-L{torch_folder() / 'lib'}", "-ltorch_cpu"]
    compile_and_link(["-shared", *extra, *map(str, objects), *torch, "-o", str(target.absolute())])


def link_cuda_kernels(objects: list[Path], target: Path) -> None:
    """The library has its own static CUDA runtime and exports none of it: torch may have another version, or none."""
    torch = [f"-L{torch_folder() / 'lib'}", "-ltorch_cpu"]
    options = ["-shared", "-cudart=static", "-Xlinker=--exclude-libs,ALL"]
    compile_and_link([*options, *map(str, objects), *torch, "-o", str(target.absolute())], cuda_compiler())
