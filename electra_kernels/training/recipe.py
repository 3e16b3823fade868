"""Training hyperparameters: the numbers that are not part of the model."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Training hyperparameters of one run.

    Attributes:
        length: tokens per row, T.
        batch_size: rows per step, B.
        learning_rate: the peak of linear warm-up and linear decay to 0.
        warmup: share of the run that warms up.
        steps: length of the run, unless it is given in minutes.
        vocab_size: entries of the WordPiece vocabulary, if it is trained on the text.
        muon_learning_rate: peak learning rate of `Muon` for the matrices inside the layers; None: AdamW trains all.
        beta2: AdamW's decay of the mean of squared gradients. A short run needs less than 0.999.
        weight_decay: decay of matrices; biases and norms do not decay.
        clip: the largest gradient norm; None: no clipping.
        least_steps: fewest steps of a run whose length is given in minutes; fewer would show nothing.
        head_start: share of the run before the generator's own samples are used.
        head_start_replacements: the discriminator's input until then: "unigram" draws, or None: only the generator
            is trained.
        unigram_share: share of the rows whose replacements are "unigram" draws after the head start too, so that the
            discriminator does not forget the easy errors.
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
    least_steps: int = 1
    head_start: float = 0.0
    head_start_replacements: str | None = None
    unigram_share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# small, base, large: google-research/electra, configure_pretraining.py and Table 6 of Clark et al. 2020.
RECIPES = {
    "small": Recipe(length=128, batch_size=128, learning_rate=5e-4, warmup=0.01, steps=1_000_000),
    "base": Recipe(length=512, batch_size=256, learning_rate=2e-4, warmup=10_000 / 766_000, steps=766_000),
    "large": Recipe(length=512, batch_size=2048, learning_rate=2e-4, warmup=0.025, steps=400_000),
    # The sizes are ModernBERT's, the training is that of small and base.
    "modern-small": Recipe(length=128, batch_size=128, learning_rate=5e-4, warmup=0.01, steps=1_000_000),
    "modern-base": Recipe(
        length=512, batch_size=256, learning_rate=2e-4, warmup=10_000 / 766_000, steps=766_000
    ),
    "demo": Recipe(
        length=64,
        batch_size=16,
        learning_rate=8e-3,
        muon_learning_rate=4e-3,
        beta2=0.98,
        warmup=0.03,
        steps=2_500,
        vocab_size=8_000,
        clip=None,
        least_steps=2_400,
        head_start=0.35,
        head_start_replacements="unigram",
        unigram_share=1 / 6,
    ),
}
