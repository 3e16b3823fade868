"""Installation as a user does it: pip builds the sources in isolation, and the wheel works in its own environment."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from test_build import NO_CUDA, NO_CUDA_REASON, copy_sources
from test_build import build as run_hook

from csrc import build

STEP = """
import torch
from electra_kernels import gather_rows, linear_cross_entropy_sample, linear_masked_bce, mask_tokens, replace_tokens

torch.manual_seed(0)
vocab_size, width = 1000, 32
ids = torch.randint(5, vocab_size, (4, 64))
embedding = torch.randn(vocab_size, width, requires_grad=True)
bias, weight, offset = (torch.zeros(n, requires_grad=True) for n in (vocab_size, width, 1))
masked = mask_tokens(ids, ids > 10, mask_token_id=3, vocab_size=vocab_size)
hidden = gather_rows(embedding[masked.input_ids], masked.positions)
mlm = linear_cross_entropy_sample(hidden, embedding, bias, masked.targets)
replaced = replace_tokens(ids, masked.positions, mlm.tokens)
rtd = linear_masked_bce(embedding[replaced.input_ids], weight, offset, replaced.is_replaced, ids > 10)
(mlm.loss + 50 * rtd.loss).backward()
print(bool(embedding.grad.isfinite().all() and weight.grad.any()))
"""


def run(*command, folder, environment=None):
    process = subprocess.run(
        command, cwd=folder, env=os.environ | (environment or {}), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of the wheel: a source distribution, built by pip in isolation, tagged with the C library that it needs."""
    folder = tmp_path_factory.mktemp("install")
    sources = copy_sources(folder / "sources")
    shutil.unpack_archive(run_hook("sdist", sources), folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    if (sources / "build").exists():
        shutil.copytree(sources / "build", unpacked / "build")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder / "built", unpacked]
    run(*pip, folder=folder, environment=NO_CUDA)
    (built,) = (folder / "built").iterdir()
    tools = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    tag = [
        "auditwheel",
        "repair",
        "--exclude",
        "libtorch*.so",
        "--exclude",
        "libc10.so",
        "--wheel-dir",
        folder / "tagged",
    ]
    run(*tag, built, folder=folder, environment=tools)
    (tagged,) = (folder / "tagged").iterdir()
    return tagged


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment with torch, its dependencies and the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    here, there = (
        sysconfig.get_path("purelib", vars=variables) for variables in (None, {"base": str(folder)})
    )
    Path(there, "torch_that_is_there.pth").write_text(f"{here}\n")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "-q", "--no-deps"]
    run(*pip, "--ignore-installed", wheel, folder=folder)
    return folder


def test_the_wheel_is_for_any_python_and_a_c_library_of_2021(wheel):
    """glibc 2.34 is of 2021. Systems with it have the C++ library of GCC 11, which auditwheel compares too."""
    python, abi, platform = wheel.stem.split("-")[2:]
    assert (python, abi) == ("py3", "none")
    version = re.match(r"manylinux_2_(\d+)_", platform)
    assert version is not None
    assert int(version[1]) <= 34


def test_the_installed_package_is_the_wheel_and_its_kernels_serve_every_op(environment):
    facts = json.loads(run(environment / "bin" / "electra-kernels", "doctor", "--json", folder=environment))
    assert facts["build"]["missing"] == {"_cuda": NO_CUDA_REASON}
    assert {devices["cpu"] for devices in facts["backends"]["serving"].values()} == {"cpp"}
    program = "import electra_kernels; print(electra_kernels.__file__)"
    file = run(environment / "bin" / "python", "-c", program, folder=environment)
    assert Path(file.strip()).is_relative_to(environment)


def test_the_joint_step_runs_there(environment):
    assert run(environment / "bin" / "python", "-c", STEP, folder=environment) == "True\n"


def test_without_torch_the_build_says_what_to_do(tmp_path, monkeypatch):
    assert build.torch_folder() == Path(torch.__file__).parent
    build.torch_folder.cache_clear()
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path, folder=tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(
        build.BuildError, match=r"there is no torch for .*: install torch first, or use --no-build-i"
    ):
        build.torch_folder()
