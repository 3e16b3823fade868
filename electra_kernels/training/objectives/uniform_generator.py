"""Replaced-token detection with replacements drawn from all words alike."""

from dataclasses import astuple

import torch
from torch import Tensor

from electra_kernels.training.objectives.base import TextFacts
from electra_kernels.training.objectives.fixed_generator import FixedGenerator


class UniformGenerator(FixedGenerator):
    """Every token of the vocabulary is drawn alike, special tokens never: they would be found without reading."""

    name = "uniform_generator"
    detects = "which words are out of place; most replacements by their rarity alone"
    cannot_detect = "which word would be right; frequent words in the wrong place, which it hardly ever sees"

    @staticmethod
    def shares(text: TextFacts) -> Tensor:
        return torch.ones(len(text.counts)).index_fill(0, torch.tensor(astuple(text.special_ids)), 0.0)
