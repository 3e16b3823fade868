"""The training objectives, and the table of their names."""

from electra_kernels.data.batch import TokenBatch
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
    "masked_batch",
    "means",
    "ratio",
    "token_batch",
]
