"""What a model is asked. One small class per objective, all of one shape; adding one takes one file."""

from electra_kernels.training.objectives.all_tokens_mlm import AllTokensMLM
from electra_kernels.training.objectives.base import Objective, TextFacts, TokenBatch, take, text_facts
from electra_kernels.training.objectives.corrupted_rows import CorruptedRows
from electra_kernels.training.objectives.corrupted_tokens import CorruptedTokens
from electra_kernels.training.objectives.masked_lm import MaskedLanguageModel
from electra_kernels.training.objectives.next_sentence import NextSentence
from electra_kernels.training.objectives.proposed import Proposed
from electra_kernels.training.objectives.replace_mlm import ReplaceMLM
from electra_kernels.training.objectives.replaced_tokens import ReplacedTokenDetection
from electra_kernels.training.objectives.replaced_tokens_masked import ReplacedTokenDetectionMasked
from electra_kernels.training.objectives.sentence_order import SentenceOrder
from electra_kernels.training.objectives.shuffled_words import ShuffledWords
from electra_kernels.training.objectives.uniform_generator import UniformGenerator
from electra_kernels.training.objectives.unigram_generator import UnigramGenerator

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
    "MaskedLanguageModel",
    "NextSentence",
    "Objective",
    "Proposed",
    "ReplaceMLM",
    "ReplacedTokenDetection",
    "ReplacedTokenDetectionMasked",
    "SentenceOrder",
    "ShuffledWords",
    "TextFacts",
    "TokenBatch",
    "UniformGenerator",
    "UnigramGenerator",
    "take",
    "text_facts",
]
