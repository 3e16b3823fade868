"""The plan of `make gpu-check`: time limits of calls and sections, and the amount of work in the sections."""

import pytest
import torch

from benchmarks import (
    baselines,
    bce,
    joint_step,
    masking,
    mlm_head,
    replacing,
    rtd_head,
    sampling,
    training_step,
    variants,
)
from benchmarks.gpu import measuring, plan


@pytest.mark.parametrize("group", plan.GROUPS)
def test_each_group_fits_into_ten_minutes(group):
    names = plan.select([group])
    assert names[0] == "build"
    assert plan.seconds(names) <= plan.CALL_LIMIT == 600


def test_all_groups_together_run_every_section_in_half_an_hour():
    assert plan.select(plan.GROUPS) == plan.select([]) == list(plan.SECTIONS)
    assert sum(plan.seconds(names) for names in plan.GROUPS.values()) <= 1800
    assert plan.select(["step_base", "linear_head"]) == ["linear_head", "step_base"]


@pytest.mark.parametrize("name", plan.SECTIONS)
def test_the_expected_time_of_each_section_leaves_a_fifth_of_it_to_spare(name):
    section = plan.SECTIONS[name]
    assert section.expected * 1.2 <= section.budget
    (line,) = (line for line in plan.arithmetic().splitlines() if line.startswith(f"{name} "))
    assert f"{section.budget} s" in line
    assert str(section.works[-1]) in line


def test_work_prints_its_estimate():
    assert str(plan.Work("tests", 80, 0.5)) == "80 tests x 0.5 s = 40"
    assert str(plan.Work("tests", 80, 0.5, parallel=True)) == "80 tests x 0.5 s / 8 cores = 5"


BENCHMARKS = {
    "bench_masking": [masking.cases],
    "bench_sampling": [sampling.cases, replacing.cases],
    "bench_mlm_head": [mlm_head.cases],
    "bench_bce": [bce.cases],
    "bench_rtd_head": [rtd_head.cases],
    "linear_head": [mlm_head.on_gpu],
    "step_small": [joint_step.on_gpu, lambda size: training_step.cases("small", size)],
    "step_base": [lambda size: training_step.cases("base", size)],
}


@pytest.mark.parametrize("section", BENCHMARKS)
def test_the_plan_has_the_right_number_of_groups_of_variants(monkeypatch, section):
    def ours(op, run, *, everywhere):
        names = ["ours", *(["ours, triton", "ours, reference"] if everywhere else [])]
        return dict.fromkeys(names, run)

    monkeypatch.setattr(variants, "ours", ours)
    compiled = variants.Variants({"torch.compile": None}, {})
    monkeypatch.setattr(baselines, "compiled", lambda *_: compiled)
    for module in (mlm_head, joint_step):
        monkeypatch.setattr(module, "has_native_bfloat16", lambda device: True)
    monkeypatch.setattr(training_step, "Graph", lambda run, device: run)
    with torch.device("meta"):
        cases = [case for cases in BENCHMARKS[section] for case in cases("full")]
    groups = sum(len(measuring.first_groups(case) + measuring.other_groups(case)) for case in cases)
    (planned,) = (work for work in plan.SECTIONS[section].works if work.name == "groups of variants")
    assert planned.count == groups
    assert len({case.name for case in cases}) == len(cases)
