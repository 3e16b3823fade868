"""The build of the compiled libraries. Each test builds a copy of the sources, without pip, which is quicker."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import csrc.build
import electra_kernels

ROOT = Path(__file__).parent.parent
OBJECTS = ROOT / "build" / "objects"
MODULE = "_C" + sysconfig.get_config_var("EXT_SUFFIX")
KERNELS = "_cpp.so"
CUDA_KERNELS = "_cuda.so"
NO_COMPILER = {"CXX": "/nonexistent/g++"}
# Environment and recorded reason of builds without CUDA.
NO_CUDA = {"ELECTRA_KERNELS_CUDA": "0"}
NO_CUDA_REASON = "ELECTRA_KERNELS_CUDA is 0"
TABLE = Path(electra_kernels.__file__).parent / "backends" / "table.py"
BUILT_RECORD = {
    "version": electra_kernels.__version__,
    "table": hashlib.sha256(TABLE.read_bytes()).hexdigest(),
    "missing": {"_cuda": NO_CUDA_REASON},
}

# The compiler of a machine without Python's headers: it ignores the folder of Python.h. To be quick, it compiles the
# kernels, which do not need Python, to empty objects.
WITHOUT_PYTHON_H = """
import os, sys
kept = [a for a in sys.argv[1:] if not (a.startswith("-I") and os.path.exists(a[2:] + "/Python.h"))]
if "-c" in kept:
    kept = ["-x", "c++", "-c", "/dev/null", *kept[-2:]]
os.execvp("g++", ["g++", *kept])
"""


@pytest.fixture
def sources(tmp_path):
    return copy_sources(tmp_path / "sources")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A folder with a copy of the sources, their object files, and the unpacked wheel that was built from them."""
    folder = tmp_path_factory.mktemp("wheel")
    unpack_wheel(build("wheel", copy_sources(folder / "sources")), folder / "unpacked")
    return folder


@pytest.fixture(scope="module")
def unpacked_wheel(wheel):
    return wheel / "unpacked"


def copy_sources(target):
    """Copy the files that a build reads, as in a fresh clone, and the object files of kernels if there are any."""
    unbuilt = shutil.ignore_patterns("__pycache__", "_*.so", "_build.json")
    for folder in ("electra_kernels", "csrc", ".ci"):
        shutil.copytree(ROOT / folder, target / folder, ignore=unbuilt)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, target)
    if OBJECTS.exists():
        shutil.copytree(OBJECTS, target / OBJECTS.relative_to(ROOT))
    return target


def build(kind, sources, *, environment=None):
    """Run a hook of PEP 517 or 660 in a process of its own.

    Returns:
        The path of the result.
    """
    process = run_build(kind, sources, environment=environment)
    assert process.returncode == 0, process.stderr
    return sources / "dist" / process.stdout.splitlines()[-1]


def run_build(kind, sources, *, environment=None):
    hook = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CXX", "ELECTRA_KERNELS_BUILD", "TORCH_CUDA_ARCH_LIST")
    }
    (sources / "dist").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", hook],
        cwd=sources,
        env=clean | NO_CUDA | (environment or {}),
        capture_output=True,
        text=True,
    )


def unpack_wheel(wheel, target):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def record(folder):
    return json.loads((folder / "electra_kernels" / "_build.json").read_text())


# Without this, a copy that has no module would import that of an editable install.
ONLY_FROM_THE_PATH = """
import json, sys
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")]
import electra_kernels
"""


def python(folder, program):
    """Run a program that imports the package from ``folder``.

    Returns:
        The output of the program, parsed as JSON.
    """
    process = subprocess.run(
        [sys.executable, "-c", ONLY_FROM_THE_PATH + program],
        env=os.environ | {"PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_wheel_carries_the_module_and_the_data_files(unpacked_wheel):
    package = unpacked_wheel / "electra_kernels"
    assert (package / MODULE).exists()
    assert (package / KERNELS).exists()
    assert (package / "py.typed").exists()
    assert record(unpacked_wheel) == BUILT_RECORD
    for page in (ROOT / "electra_kernels").rglob("*.html"):
        assert (package / page.relative_to(ROOT / "electra_kernels")).exists()


def test_the_version_stands_in_one_place(unpacked_wheel):
    version = electra_kernels.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    metadata = unpacked_wheel / f"electra_kernels-{version}.dist-info" / "METADATA"
    assert f"\nVersion: {version}\n" in metadata.read_text()
    assert record(unpacked_wheel)["version"] == version


BUILD_INFO = "from electra_kernels.backends.build_record import build_info; print(json.dumps(build_info()))"


def test_the_module_says_how_it_was_built(unpacked_wheel):
    info = python(unpacked_wheel, BUILD_INFO)
    assert info["compiler"]
    assert "-std=c++17" in info["flags"]
    assert "sse2" in info["libraries"]["cpp"] or platform.machine() != "x86_64"


def test_the_kernels_work_without_the_module_which_depends_on_the_python_version(unpacked_wheel, tmp_path):
    shutil.copytree(unpacked_wheel, tmp_path, dirs_exist_ok=True)
    (tmp_path / "electra_kernels" / MODULE).rename(tmp_path / "electra_kernels" / "_C.cpython-399.so")
    assert python(tmp_path, BUILD_INFO)["missing"]["_C"].startswith("it was built, but not for here: ")
    program = 'print(json.dumps(electra_kernels.backends().serving["sample_tokens", "cpu"]))'
    assert python(tmp_path, program) == "cpp"


def test_no_level_shares_code_with_another(wheel):
    """The linker merges a symbol that two levels define: AVX-512 code could run on a machine without it."""
    objects = [path for path in (wheel / "sources" / "build" / "objects").iterdir() if "-" in path.name]
    levels = python(wheel / "unpacked", BUILD_INFO)["libraries"]["cpp"]
    assert {path.name.partition("-")[2].partition(".")[0] for path in objects} == set(levels)
    for path in objects:
        idea, _, level = path.name.partition(".")[0].partition("-")
        command = ["nm", "--demangle", "--extern-only", "--defined-only", path]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert [line.split()[2] for line in lines] == [f"electra_kernels::{level}::{idea}"], path.name


def test_kernels_are_compiled_again_only_if_a_source_changed(sources):
    objects = sources / "build" / "objects"
    build("editable", sources)
    before = {path.name: path.stat().st_mtime_ns for path in objects.iterdir()}
    build("editable", sources)
    assert {path.name: path.stat().st_mtime_ns for path in objects.iterdir()} == before
    (sources / "csrc" / "cpu" / "scan.h").write_text("#error changed\n")
    run_build("editable", sources)
    assert record(sources)["missing"]["_cpp"].endswith("error: #error changed")


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """csrc/build.py for a few sources in a temporary folder, with a compiler that only creates its output file."""
    monkeypatch.setattr(csrc.build, "ROOT", tmp_path)
    monkeypatch.setattr(csrc.build, "compile_and_link", lambda command, _: Path(command[-1]).touch())
    for name, text in {
        "a.cu": '#include "b.h"\n#include <c.h>\n#include "absent.h"\n',
        "b.h": '#pragma once\n#if X\n# include "deep/d.h"\n#endif\n',
        "c.h": "",
        "deep/d.h": '#include "../a.cu"\n#include "e.h"\n',
        "far/e.h": "",
        "other.cu": '#include "c.h"',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return csrc.build


def test_included_files_are_found_beside_the_source_and_in_the_given_folders(builder, tmp_path):
    for folders, expected in (
        ([], ["a.cu", "b.h", "deep/d.h"]),
        (["far"], ["a.cu", "b.h", "deep/d.h", "far/e.h"]),
    ):
        found = builder.included(tmp_path / "a.cu", folders)
        assert [str(path.relative_to(tmp_path)) for path in found] == expected


def test_only_sources_that_include_a_changed_file_are_compiled_again(builder, tmp_path):
    commands = [(name, ["-Ifar", f"{name}.cu"]) for name in ("a", "other")]

    def objects():
        return {path.name.partition(".")[0]: path.name for path in builder.build_objects(tmp_path, commands)}

    first = objects()
    assert objects() == first
    (tmp_path / "far" / "e.h").write_text("changed")
    second = objects()
    assert second["a"] != first["a"]
    assert second["other"] == first["other"]
    assert sorted(path.name for path in tmp_path.glob("*.o")) == sorted(second.values()), (
        "the old one is gone"
    )


def test_kernels_of_another_machine_are_not_loaded_and_the_reason_is_given(unpacked_wheel, tmp_path):
    shutil.copytree(unpacked_wheel, tmp_path, dirs_exist_ok=True)
    (tmp_path / "electra_kernels" / KERNELS).write_bytes(b"\x7fELF of another machine")
    unavailable = python(tmp_path, "print(json.dumps(electra_kernels.backends().unavailable))")
    assert unavailable["cpp"].startswith("electra_kernels._cpp was built, but not for here: ")


def test_an_editable_install_puts_the_module_beside_the_sources(sources):
    build("editable", sources)
    assert (sources / "electra_kernels" / MODULE).exists()
    assert (sources / "electra_kernels" / KERNELS).exists()
    assert record(sources) == BUILT_RECORD


def test_a_source_distribution_has_all_that_a_build_needs(sources):
    distribution = build("sdist", sources)
    with tarfile.open(distribution) as archive:
        archive.extractall(sources / "unpacked", filter="data")
    (unpacked,) = (sources / "unpacked").iterdir()
    names = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    for folder in ("csrc", "electra_kernels"):
        files = {
            str(path.relative_to(sources))
            for path in (sources / folder).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert files <= names
    assert not [name for name in names if name.endswith(".pyc")]
    assert {"LICENSE", "CITATION.cff", "README.md", "setup.py", "pyproject.toml"} <= names
    # An object's name is a hash of its sources. If the names match, the sources are complete and the build is quick.
    if OBJECTS.exists():
        shutil.copytree(OBJECTS, unpacked / OBJECTS.relative_to(ROOT))
    wheel = unpack_wheel(build("wheel", unpacked), sources / "wheel")
    assert (wheel / "electra_kernels" / MODULE).exists()
    assert (wheel / "electra_kernels" / KERNELS).exists()


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_without_a_compiler_the_build_goes_on_and_gives_the_reason(sources, kind):
    stale = sources / "electra_kernels" / MODULE
    stale.write_bytes(b"of an earlier build")
    process = run_build(kind, sources, environment=NO_COMPILER)
    reason = "compiler '/nonexistent/g++' cannot be run: No such file or directory"
    assert process.returncode == 0, process.stderr
    assert f"warning: electra_kernels._C was not built, going on without it: {reason}" in process.stderr
    if kind == "wheel":
        made = unpack_wheel(sources / "dist" / process.stdout.splitlines()[-1], sources / "unpacked")
    else:
        made = sources
    assert record(made)["missing"] == {"_cpp": reason, "_cuda": NO_CUDA_REASON, "_C": reason}
    assert not (made / "electra_kernels" / MODULE).exists()
    assert not (made / "electra_kernels" / KERNELS).exists()
    unavailable = python(made, "print(json.dumps(electra_kernels.backends().unavailable))")
    assert unavailable["cpp"] == f"electra_kernels._cpp is not built: {reason}"


def test_without_python_h_the_first_error_line_is_the_reason(sources):
    compiler = sources / "compiler.py"
    compiler.write_text(WITHOUT_PYTHON_H)
    process = run_build("editable", sources, environment={"CXX": f"{sys.executable} {compiler}"})
    assert process.returncode == 0, process.stderr
    reason = record(sources)["missing"]["_C"]
    assert re.search(r"fatal error: Python\.h: No such file", reason), reason
    assert f"going on without it: {reason}" in process.stderr


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_a_required_module_that_cannot_be_built_fails_the_build(sources, kind):
    process = run_build(kind, sources, environment=NO_COMPILER | {"ELECTRA_KERNELS_BUILD": "require"})
    assert process.returncode != 0
    assert "electra_kernels._cpp is required but was not built: compiler '/nonexistent/g++'" in process.stderr


def test_the_package_works_where_setup_was_never_run(sources):
    program = """
import torch
ids = torch.tensor([[5, 6, 7]])
replaced = electra_kernels.replace_tokens(ids, torch.tensor([[1]]), torch.tensor([[9]]))
print(json.dumps([replaced.input_ids.tolist(), electra_kernels.backends().unavailable["cpp"]]))
"""
    ids, reason = python(sources, program)
    assert ids == [[5, 9, 7]]
    assert reason == "electra_kernels._cpp is not built: setup.py was not run"


def test_a_build_of_another_version_is_not_used(unpacked_wheel, tmp_path):
    shutil.copytree(unpacked_wheel, tmp_path, dirs_exist_ok=True)
    (tmp_path / "electra_kernels" / "_version.py").write_text('__version__ = "9.9"\n')
    unavailable = python(tmp_path, "print(json.dumps(electra_kernels.backends().unavailable))")
    expected = f"it was built for version {electra_kernels.__version__}, this is 9.9: install again"
    assert unavailable["cpp"] == f"electra_kernels._cpp is not built: {expected}"


def test_a_build_for_another_table_of_ops_is_not_used(unpacked_wheel, tmp_path):
    """A kernel that got its arguments in another order would crash the process."""
    shutil.copytree(unpacked_wheel, tmp_path, dirs_exist_ok=True)
    table = tmp_path / "electra_kernels" / "backends" / "table.py"
    table.write_text(table.read_text() + "# changed\n")
    unavailable = python(tmp_path, "print(json.dumps(electra_kernels.backends().unavailable))")
    expected = "it was built for another table of ops: install again"
    assert unavailable["cpp"] == f"electra_kernels._cpp is not built: {expected}"


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc on the PATH")


@pytest.fixture(scope="module")
def cuda_build(tmp_path_factory):
    """A copy of the sources in which the CUDA kernels are built."""
    sources = copy_sources(tmp_path_factory.mktemp("cuda") / "sources")
    build("editable", sources, environment={"ELECTRA_KERNELS_CUDA": "1"})
    return sources


@needs_nvcc
def test_the_cuda_library_is_built_for_each_generation_and_says_so(cuda_build):
    assert record(cuda_build)["missing"] == {}
    assert python(cuda_build, BUILD_INFO)["libraries"]["cuda"] == ["sm_80", "sm_90", "sm_100", "compute_100"]
    text = (cuda_build / "electra_kernels" / CUDA_KERNELS).read_bytes()
    assert b".target sm_100" in text or b"compute_100" in text


@pytest.mark.parametrize(
    "listed, architectures",
    [
        ("", ["sm_80", "sm_90", "sm_100", "compute_100"]),
        ("9.0", ["sm_90"]),
        ("7.5 8.0;9.0a+PTX", ["sm_80", "sm_90a", "compute_90a"]),
    ],
)
def test_the_cuda_kernels_are_built_for_the_architectures_of_torch(monkeypatch, listed, architectures):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    assert csrc.build.wanted_architectures() == architectures
    (arguments,) = (
        arguments for name, arguments in csrc.build.cuda_commands(architectures) if name == "cuda_bce"
    )
    codes = [argument.rpartition("=")[2] for argument in arguments if argument.startswith("-gencode")]
    assert (codes, "--threads=0" in arguments) == (architectures, True)


@pytest.mark.parametrize(
    "listed, words", [("Hopper", "names 'Hopper'"), ("9", "names '9'"), ("7.0 7.5", "from 8.0 on")]
)
def test_architectures_that_cannot_be_built_are_refused(monkeypatch, listed, words):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    with pytest.raises(csrc.build.BuildError, match=words):
        csrc.build.wanted_architectures()


@needs_nvcc
def test_the_cuda_library_loads_without_cuda_and_exports_nothing_of_its_runtime(cuda_build):
    library = cuda_build / "electra_kernels" / CUDA_KERNELS
    command = ["nm", "--dynamic", "--demangle", library]
    symbols = [line.split()[-1] for line in subprocess.check_output(command, text=True).splitlines()]
    assert not [name for name in symbols if re.match("_*cuda[A-Z]", name)]
    program = f"""
import torch
from electra_kernels.backends.compiled import load
load("electra_kernels_cuda", {str(library)!r})
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key("electra_kernels_cuda::mask_tokens", "CUDA")
print(json.dumps([has_kernel, electra_kernels.backends().unavailable]))
"""
    has_kernel, unavailable = python(cuda_build, program)
    assert has_kernel
    if torch.version.cuda is None:
        assert unavailable["cuda"] == "this torch is built without CUDA"


def test_without_nvcc_the_build_goes_on_and_gives_the_reason(sources):
    environment = {
        "ELECTRA_KERNELS_CUDA": "",
        "CUDA_HOME": "/nonexistent",
        "PATH": str(path_with_only_gxx(sources)),
    }
    process = run_build("editable", sources, environment=environment)
    assert process.returncode == 0, process.stderr
    reason = "there is no nvcc, neither on the PATH nor in /nonexistent/bin (CUDA_HOME)"
    assert record(sources) == BUILT_RECORD | {"missing": {"_cuda": reason}}
    assert f"warning: electra_kernels._cuda was not built, going on without it: {reason}" in process.stderr
    assert not (sources / "electra_kernels" / CUDA_KERNELS).exists()


def test_required_cuda_kernels_that_cannot_be_built_fail_the_build(sources):
    environment = {
        "ELECTRA_KERNELS_CUDA": "1",
        "CUDA_HOME": "/nonexistent",
        "PATH": str(path_with_only_gxx(sources)),
    }
    process = run_build("editable", sources, environment=environment)
    assert process.returncode != 0
    assert "electra_kernels._cuda is required but was not built: there is no nvcc" in process.stderr


def path_with_only_gxx(sources):
    """Make a folder for the PATH that has the programs that g++ runs, and no nvcc."""
    folder = sources / "bin"
    folder.mkdir()
    for name in ("g++", "as", "ld"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def is_ready(sources, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ELECTRA"))}
    return subprocess.run(["make", "-q", ".venv/ready"], cwd=sources, env=clean | environment).returncode == 0


def test_make_builds_again_where_the_module_is_required_and_missing(sources):
    (sources / ".venv").mkdir()
    for stamp in ("packages", "ready"):
        (sources / ".venv" / stamp).touch()
    assert is_ready(sources)
    assert not is_ready(sources, ELECTRA_KERNELS_BUILD="require")
    (sources / "electra_kernels" / MODULE).touch()
    assert is_ready(sources, ELECTRA_KERNELS_BUILD="require")
    later = (sources / ".venv" / "ready").stat().st_mtime + 10
    os.utime(sources / "csrc" / "bindings.cpp", (later, later))
    assert not is_ready(sources)
