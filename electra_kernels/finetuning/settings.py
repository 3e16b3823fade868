"""Hyperparameters of a fine-tuning, with the defaults of ELECTRA.

The sources are google-research/electra (configure_finetuning.py, model/optimization.py) and Clark et al. 2020
(arXiv 2003.10555, appendix B, table 7).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WEIGHT_DECAY = 0.01  # configure_finetuning.py; the paper says 0
WARMUP = 0.1  # share of the steps
BATCH_SIZE = 32  # rows of a step
PATIENCE = 3  # epochs without a better score; ours, ELECTRA trains without early stopping
HELD_OUT = 0.1  # share of the training file that is kept apart where no --dev is given
MANY_EXAMPLES = 6000  # STS, with 5,749 pairs, is the largest task that ELECTRA trains for 10 epochs


@dataclass(frozen=True)
class Settings:
    """Of one training.

    Attributes:
        learning_rate: peak rate of the head; linear warm-up over `WARMUP`, then linear decay to 0.
        layer_decay: factor from each layer to the one below it.
        epochs: passes over the training examples.
        batch_size: rows of a step.
        patience: epochs without a better score on the held-out examples before the training stops.
    """

    learning_rate: float
    layer_decay: float
    epochs: int
    batch_size: int = BATCH_SIZE
    patience: int = PATIENCE


def default_settings(hidden_size: int, examples: int, *, is_pretrained: bool) -> Settings:
    """ELECTRA's settings for a model and a data set of this size.

    Below 768 the model counts as small, below 1024 as base, else as large. 10 epochs for up to `MANY_EXAMPLES`, else 3.
    A model with random weights has nothing to keep in its lower layers: one rate for all of them.
    """
    if hidden_size < 768:
        learning_rate, layer_decay = 3e-4, 0.8
    elif hidden_size < 1024:
        learning_rate, layer_decay = 1e-4, 0.8
    else:
        learning_rate, layer_decay = 5e-5, 0.9
    return Settings(
        learning_rate, layer_decay if is_pretrained else 1.0, 10 if examples <= MANY_EXAMPLES else 3
    )


@dataclass(frozen=True)
class Options:
    """The options of ``electra-kernels finetune``; None stands for a default that depends on model and data."""

    model: Path
    train: Path
    output: Path
    dev: Path | None = None
    test: Path | None = None
    task: str = "tokens"
    column: str | None = None
    text_column: str | None = None
    label_all_pieces: bool = False
    positive: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    layer_decay: float | None = None
    batch_size: int | None = None
    patience: int | None = None
    length: int | None = None
    seed: int = 0
    seeds: int = 1
    replace: bool = False

    def identity(self) -> dict[str, Any]:
        """What decides the result, by option, as metrics.json keeps it."""
        chosen = {name: value for name, value in asdict(self).items() if name not in ("output", "replace")}
        return {
            f"--{name.replace('_', '-')}": str(value) if isinstance(value, Path) else value
            for name, value in chosen.items()
        }
