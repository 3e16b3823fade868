"""The profiler measures the trainer's own step: every phase in its order, and no number changes."""

import time
from dataclasses import replace

import pytest
import torch

from electra_kernels.models import ElectraConfig
from electra_kernels.training.objectives import (
    ReplacedTokenDetection,
    ReplacedTokenDetectionMasked,
    UnigramGenerator,
    token_batch,
)
from electra_kernels.training.profiler import PHASES, PhaseTimer, profile_step
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Trainer

RECIPE = Recipe(length=16, batch_size=8, learning_rate=1e-4, warmup=0.0, steps=3, muon_learning_rate=1e-3)
CPU = torch.device("cpu")


@pytest.fixture(params=["all", "embeddings"])
def config(request, electra_config):
    """A generator that shares the whole encoder, and one with an encoder of its own."""
    if request.param == "all":
        return electra_config
    generator = replace(electra_config.discriminator, num_hidden_layers=1)
    return replace(electra_config, generator=generator, tie="embeddings")


def trainer_of(objective):
    """A trainer at the end of its training, after the head start."""
    trainer = Trainer(objective, RECIPE, one_phase(16, 1), seed=0)
    trainer.position.step = 1
    return trainer


class RecordingTimer(PhaseTimer):
    """Lists the phases of a step, each where it begins."""

    def start(self, phase):
        self.phases = [phase]
        super().start(phase)

    def switch_to(self, phase):
        if phase != self.phases[-1]:
            self.phases.append(phase)
        super().switch_to(phase)


def test_every_phase_takes_time_and_nothing_is_disturbed(electra_config, facts, rows):
    objective = ReplacedTokenDetection(electra_config, facts).eval()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    seconds = profile_step(objective, rows, RECIPE, repeats=3, seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert tuple(seconds) == PHASES
    assert all(value > 0 for value in seconds.values())
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert not objective.training


def test_the_phases_sum_to_the_time_of_the_step(electra_config, facts, rows, monkeypatch):
    steps, step = [], Trainer.step

    def timed(self, *arguments):
        start = time.perf_counter()
        result = step(self, *arguments)
        steps.append(time.perf_counter() - start)
        return result

    monkeypatch.setattr(Trainer, "step", timed)
    start = time.perf_counter()
    seconds = profile_step(ReplacedTokenDetection(electra_config, facts), rows, RECIPE, repeats=1, seed=0)
    elapsed = time.perf_counter() - start
    assert steps[-1] <= sum(seconds.values()) - seconds["data"]
    assert sum(seconds.values()) <= elapsed - sum(steps[:-1])


@pytest.mark.parametrize("kind", [ReplacedTokenDetection, ReplacedTokenDetectionMasked])
def test_a_watched_step_has_the_gradients_of_an_unwatched_step(kind, config, facts, rows):
    gradients = []
    for is_watched in (False, True):
        torch.manual_seed(1)
        objective = kind(config, facts)
        if is_watched:
            PhaseTimer(CPU).watch_step(objective)
        trainer_of(objective).step(token_batch(rows, torch.arange(8), CPU))
        gradients.append({name: parameter.grad for name, parameter in objective.named_parameters()})
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


@pytest.mark.parametrize("kind", [ReplacedTokenDetection, ReplacedTokenDetectionMasked])
def test_phases_come_in_the_order_of_the_joint_step(kind, config, facts, rows):
    objective = kind(config, facts)
    trainer, timer = trainer_of(objective), RecordingTimer(CPU)
    timer.watch_step(objective)
    timer.start("optimiser")
    trainer.step(token_batch(rows, torch.arange(8), CPU))
    rest = "head and sampling"
    # Masked rows are gathered between the generator's encoder and its transform.
    forward = [rest, "generator", rest, "generator", rest, "discriminator", rest, "discriminator", rest]
    backward = ["discriminator", rest, "generator"]
    assert timer.phases == ["optimiser", *forward, *backward, "optimiser"]


def test_an_objective_without_a_generator_is_refused(encoder_config, facts, rows):
    config = ElectraConfig(encoder_config, None, 4, generator_kind="unigram")
    with pytest.raises(ValueError, match="objective unigram_generator has no generator"):
        profile_step(UnigramGenerator(config, facts), rows, RECIPE, repeats=1, seed=0)
