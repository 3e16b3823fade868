"""The training objectives, and the table of their names."""

from electra_kernels.training.objectives.base import Objective, TokenBatch, token_batch
from electra_kernels.training.objectives.corrupted import CorruptedRows, CorruptedTokens, ShuffledWords
from electra_kernels.training.objectives.masked_lm import AllTokensMLM, MaskedLanguageModel, ReplaceMLM
from electra_kernels.training.objectives.replaced_tokens import (
    GeneratorObjective,
    ReplacedTokenDetection,
    ReplacedTokenDetectionMasked,
    UniformGenerator,
    UnigramGenerator,
)
from electra_kernels.training.objectives.sentences import NextSentence, SentenceOrder

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

__all__ = [
    "OBJECTIVES",
    "AllTokensMLM",
    "CorruptedRows",
    "CorruptedTokens",
    "GeneratorObjective",
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
    "token_batch",
]
