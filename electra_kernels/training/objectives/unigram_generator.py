"""Replaced-token detection with replacements drawn by their frequency in the text."""

from torch import Tensor

from electra_kernels.training.objectives.base import TextFacts
from electra_kernels.training.objectives.fixed_generator import FixedGenerator


class UnigramGenerator(FixedGenerator):
    """A replacement is as frequent as any word, so only what stands around it can tell."""

    name = "unigram_generator"
    detects = "which words are out of place"
    cannot_detect = "which word would be right; replacements more plausible than a random word"

    @staticmethod
    def shares(text: TextFacts) -> Tensor:
        return text.counts
