import importlib.metadata
import json
import platform
from types import SimpleNamespace

import pytest
import torch

import electra_kernels
from electra_kernels.commands import doctor


def test_doctor_reports_the_installed_versions():
    versions = doctor.diagnose()["versions"]
    assert versions["electra_kernels"] == electra_kernels.__version__
    assert versions["torch"] == torch.__version__
    assert versions["Python"] == platform.python_version()
    assert versions["numpy"] == importlib.metadata.version("numpy")


def test_a_missing_package_is_reported(monkeypatch):
    monkeypatch.setattr(doctor, "_PACKAGES", ("no-such-package",))
    assert doctor.diagnose()["versions"]["no-such-package"] is None
    assert "no-such-package  not installed" in doctor.report()


def test_the_number_of_threads_is_that_of_torch():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert doctor.diagnose()["cpu"]["threads"] == before + 1
    finally:
        torch.set_num_threads(before)


def test_without_a_gpu_the_reason_is_shown(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "none  torch for CUDA 13.0 finds no device" in doctor.report()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "none  this torch is built without CUDA" in doctor.report()


def test_a_gpu_is_shown_with_its_capability_and_memory(monkeypatch):
    properties = SimpleNamespace(name="A card", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    assert "cuda:0  A card, capability 9.0, 80.0 GiB" in doctor.report()


BUILDS = [
    pytest.param(
        {"missing": {"_cpp": "no g++", "_C": "no g++"}},
        ["no _cpp  no g++", "no _C    no g++"],
        id="not built",
    ),
    pytest.param(
        {
            "missing": {"_cuda": "no nvcc"},
            "compiler": "g++ 99",
            "architecture": "x86_64",
            "flags": "-O2",
            "libraries": {"cpu": ["baseline", "avx2"]},
        },
        ["g++ 99 for x86_64", "-O2", "cpu (baseline, avx2)", "no nvcc"],
        id="built",
    ),
]


@pytest.mark.parametrize("build, expected", BUILDS)
def test_the_build_or_the_reason_for_its_absence_is_shown(monkeypatch, build, expected):
    monkeypatch.setattr(doctor, "build_info", lambda: build)
    report = doctor.report()
    for text in expected:
        assert text in report


def test_every_op_and_every_reason_is_shown():
    table = electra_kernels.backends()
    report = doctor.report()
    for op, _ in table.serving:
        assert op in report
    for reason in table.unavailable.values():
        assert reason in report


def test_the_json_has_the_same_facts():
    facts = json.loads(doctor.as_json())
    assert facts.keys() == doctor.diagnose().keys()
    table = electra_kernels.backends()
    for (op, device), backend in table.serving.items():
        assert facts["backends"]["serving"][op][device] == backend
    assert facts["backends"]["unavailable"] == table.unavailable


def test_the_cache_folder_is_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("ELECTRA_KERNELS_CACHE", str(tmp_path))
    assert str(tmp_path) in doctor.report()
