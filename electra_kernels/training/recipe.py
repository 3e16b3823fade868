"""How a run is trained: the numbers that are not part of the model."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Training hyperparameters.

    Attributes:
        length: tokens per row, T.
        batch_size: rows per step, B.
        learning_rate: peak of the schedule: linear warm-up, then linear decay to 0.
        warmup: share of the run that warms up.
        steps: length of the run, unless it is given in minutes.
        vocab_size: entries of the WordPiece vocabulary, where it is trained on the text.
        muon_learning_rate: peak of the rate of `Muon` for the matrices inside the layers; None: AdamW for all.
        beta2: of AdamW, how slowly the mean of squared gradients forgets. A short run wants less than 0.999.
        weight_decay: of matrices; biases and norms have none.
        clip: largest gradient norm, or None.
        head_start: share of the run before the generator's own samples are used.
        head_start_replacements: what the discriminator sees until then: "unigram" draws, or nothing (None: the
            generator is trained alone).
    """

    length: int
    batch_size: int
    learning_rate: float
    warmup: float
    steps: int
    vocab_size: int = 30_522
    muon_learning_rate: float | None = None
    beta2: float = 0.999
    weight_decay: float = 0.01
    clip: float | None = 1.0
    head_start: float = 0.0
    head_start_replacements: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# small, base, large: google-research/electra, configure_pretraining.py and Table 6 of Clark et al. 2020.
RECIPES = {
    "small": Recipe(length=128, batch_size=128, learning_rate=5e-4, warmup=0.01, steps=1_000_000),
    "base": Recipe(length=512, batch_size=256, learning_rate=2e-4, warmup=10_000 / 766_000, steps=766_000),
    "large": Recipe(length=512, batch_size=2048, learning_rate=2e-4, warmup=0.025, steps=400_000),
    "demo": Recipe(
        length=64,
        batch_size=16,
        learning_rate=3e-3,
        muon_learning_rate=6e-3,
        beta2=0.98,
        warmup=0.03,
        steps=2_500,
        vocab_size=8_000,
        clip=None,
        head_start=0.35,
        head_start_replacements="unigram",
    ),
}
