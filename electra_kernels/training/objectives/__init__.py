"""The training objectives, and the table of their names."""

from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.facts import TextFacts
from electra_kernels.models import ElectraConfig
from electra_kernels.training.objectives.base import Objective, means, ratio, token_batch
from electra_kernels.training.objectives.corrupted import CorruptedRows, CorruptedTokens, ShuffledWords
from electra_kernels.training.objectives.masked_batch import MaskedBatch, masked_batch
from electra_kernels.training.objectives.masked_lm import AllTokensMLM, MaskedLanguageModel, ReplaceMLM
from electra_kernels.training.objectives.replaced_tokens import (
    GeneratorObjective,
    ReplacedTokenDetection,
    ReplacedTokenDetectionMasked,
    UniformGenerator,
    UnigramGenerator,
    joint_step,
)
from electra_kernels.training.objectives.sentences import NextSentence, SentenceOrder
from electra_kernels.training.recipe import Recipe

_CLASSES: tuple[type[Objective], ...] = (
    ReplacedTokenDetection,
    ReplacedTokenDetectionMasked,
    ReplaceMLM,
    AllTokensMLM,
    MaskedLanguageModel,
    UniformGenerator,
    UnigramGenerator,
    ShuffledWords,
    CorruptedTokens,
    CorruptedRows,
    SentenceOrder,
    NextSentence,
)
OBJECTIVES: dict[str, type[Objective]] = {objective.name: objective for objective in _CLASSES}


def make_objective(name: str, config: ElectraConfig, text: TextFacts, recipe: Recipe) -> Objective:
    """The objective called ``name``, with the head start of the recipe where it has a generator."""
    objective = OBJECTIVES[name]
    if issubclass(objective, GeneratorObjective):
        return objective(
            config,
            text,
            head_start=recipe.head_start,
            head_start_replacements=recipe.head_start_replacements,
            unigram_share=recipe.unigram_share,
        )
    return objective(config, text)


__all__ = [
    "OBJECTIVES",
    "AllTokensMLM",
    "CorruptedRows",
    "CorruptedTokens",
    "GeneratorObjective",
    "MaskedBatch",
    "MaskedLanguageModel",
    "NextSentence",
    "Objective",
    "ReplaceMLM",
    "ReplacedTokenDetection",
    "ReplacedTokenDetectionMasked",
    "SentenceOrder",
    "ShuffledWords",
    "TokenBatch",
    "UniformGenerator",
    "UnigramGenerator",
    "joint_step",
    "make_objective",
    "masked_batch",
    "means",
    "ratio",
    "token_batch",
]
