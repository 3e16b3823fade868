"""The seconds of `gpu_check`: what each call and each section takes at most, and the work that the sections have."""

import pytest
import torch

from benchmarks import (
    bce,
    contenders,
    gpu_plan,
    gpu_sections,
    masking,
    mlm_head,
    rtd_head,
    sampling,
    step,
    training_step,
)


@pytest.mark.parametrize("group", gpu_plan.GROUPS)
def test_each_call_ends_in_ten_minutes(group):
    sections = gpu_plan.select([group])
    assert sections[0] == "build"
    assert gpu_plan.seconds(sections) <= gpu_plan.CALL_LIMIT == 600


def test_all_calls_together_run_every_section_in_half_an_hour():
    assert gpu_plan.select(gpu_plan.GROUPS) == gpu_plan.select([]) == list(gpu_plan.SECTIONS)
    assert sum(gpu_plan.seconds(sections) for sections in gpu_plan.GROUPS.values()) <= 1800
    assert gpu_plan.select(["step_base", "linear_head"]) == ["linear_head", "step_base"]


@pytest.mark.parametrize("name", gpu_plan.SECTIONS)
def test_the_work_of_each_section_fits_its_budget_with_a_fifth_to_spare(name):
    section = gpu_plan.SECTIONS[name]
    assert section.expected * 1.2 <= section.budget
    (line,) = (line for line in gpu_plan.arithmetic().splitlines() if line.startswith(f"{name} "))
    assert f"{section.budget} s" in line
    assert str(section.works[-1]) in line


def test_the_arithmetic_of_a_piece_of_work():
    assert str(gpu_plan.Work("tests", 80, 0.5)) == "80 tests x 0.5 s = 40"
    assert str(gpu_plan.Work("tests", 80, 0.5, parallel=True)) == "80 tests x 0.5 s / 8 cores = 5"


BENCHMARKS = {
    "bench_masking": [masking.cases],
    "bench_sampling": [sampling.cases],
    "bench_mlm_head": [mlm_head.cases],
    "bench_bce": [bce.cases],
    "bench_rtd_head": [rtd_head.cases],
    "linear_head": [mlm_head.on_gpu],
    "step_small": [step.on_gpu, lambda size: training_step.cases("small", size)],
    "step_base": [lambda size: training_step.cases("base", size)],
}


@pytest.mark.parametrize("section", BENCHMARKS)
def test_the_plan_counts_the_contenders_that_there_are(monkeypatch, section):
    def ours(op, run, *, everywhere):
        names = ["ours", *(["ours, triton", "ours, reference"] if everywhere else [])]
        return dict.fromkeys(names, run)

    monkeypatch.setattr(contenders, "ours", ours)
    monkeypatch.setattr(contenders, "compiled", lambda *_: contenders.Contenders({"torch.compile": None}, {}))
    for module in (mlm_head, step):
        monkeypatch.setattr(module, "has_native_bfloat16", lambda device: True)
    monkeypatch.setattr(training_step, "Graph", lambda run, device: run)
    with torch.device("meta"):
        cases = [case for cases in BENCHMARKS[section] for case in cases("full")]
    groups = sum(len(gpu_sections._first(case) + gpu_sections._others(case)) for case in cases)
    (planned,) = (work for work in gpu_plan.SECTIONS[section].works if work.name == "groups of contenders")
    assert planned.count == groups
    assert len({case.name for case in cases}) == len(cases)
