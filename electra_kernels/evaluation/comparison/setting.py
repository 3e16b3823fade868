"""The settings that the runs of a comparison share, and those that distinguish one run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from electra_kernels.data.facts import TextFacts
from electra_kernels.data.rows import Rows
from electra_kernels.evaluation.probing import Task
from electra_kernels.models import ElectraConfig, Encoder, EncoderConfig, electra_config
from electra_kernels.training.objectives import Objective, make_objective
from electra_kernels.training.recipe import Recipe

UNTRAINED = "untrained"

# The recipe and the encoder are small enough for tens of runs in minutes.
SMALL_RECIPE = Recipe(
    length=32,
    batch_size=64,
    learning_rate=4e-3,
    muon_learning_rate=4e-3,
    beta2=0.98,
    warmup=0.05,
    steps=1_500,
    vocab_size=4_096,
)


def small_encoder(vocab_size: int) -> EncoderConfig:
    """The encoder of the demo with two layers."""
    demo = electra_config("demo", vocab_size=vocab_size, mask_token_id=0).discriminator
    return replace(demo, num_hidden_layers=2)


@dataclass(frozen=True)
class Run:
    """One run, with a schedule of its own: the learning rate decays to 0 at the end of its budget.

    Attributes:
        objective: a name in OBJECTIVES, or `UNTRAINED` for no training: the common start of all runs of that seed.
        learning_rate: the peak.
        seed: decides the initial weights, the order of the rows and every draw.
        budget: tokens to train on; 0 if the length of the run is given in another unit.
    """

    objective: str
    learning_rate: float
    seed: int
    budget: int = 0

    @property
    def name(self) -> str:
        return f"{self.objective}-{self.budget}-{self.learning_rate:g}-{self.seed}"


@dataclass(frozen=True)
class TrainingSetting:
    """The settings that the training of all runs shares.

    Attributes:
        config, text: arguments of the objectives.
        rows: training rows.
        recipe: batch size, warm-up and the like; `recipe_of` sets the learning rate of a run.
    """

    config: ElectraConfig
    text: TextFacts
    rows: Rows
    recipe: Recipe


@dataclass(frozen=True)
class Setting(TrainingSetting):
    """The settings that all runs of ``electra-kernels compare`` share.

    Attributes:
        minutes: length of every run; None: its budget.
        plateau: nats, the entropy of the word frequencies.
        held_out: rows on which an objective is judged by its own metrics.
        curve: the task of the learning curve, probed with the encoder frozen.
        choice: tasks on other held-out text, by which the learning rate is chosen.
        tasks: probed after the training, with the encoder frozen and fine-tuned.
    """

    minutes: float | None
    plateau: float
    held_out: Rows
    curve: Task
    choice: Sequence[Task]
    tasks: Sequence[Task]


def steps_of(setting: TrainingSetting, tokens: int) -> int:
    """The steps in which a run sees about ``tokens`` tokens, at least 1."""
    rows = setting.rows
    tokens_per_step = setting.recipe.batch_size * float(rows.attention_mask.sum()) / len(rows.input_ids)
    return max(1, round(tokens / tokens_per_step))


def recipe_of(setting: TrainingSetting, run: Run) -> Recipe:
    """The shared recipe with the learning rate of the run; the rate of Muon keeps its ratio to that of AdamW."""
    recipe, muon = setting.recipe, setting.recipe.muon_learning_rate
    if muon is not None:
        muon *= run.learning_rate / recipe.learning_rate
    return replace(recipe, learning_rate=run.learning_rate, muon_learning_rate=muon)


def objective_of(setting: TrainingSetting, run: Run) -> Objective:
    """The objective of a run, on the CPU; the seed alone decides the initial weights of its encoder."""
    initial = initial_encoder(setting, run.seed).state_dict()
    objective = make_objective(run.objective, setting.config, setting.text, setting.recipe)
    objective.encoder.load_state_dict(initial)
    return objective


def initial_encoder(setting: TrainingSetting, seed: int) -> Encoder:
    """The encoder from which all runs of a seed start, on the CPU."""
    torch.manual_seed(seed)
    return Encoder(setting.config.discriminator)
