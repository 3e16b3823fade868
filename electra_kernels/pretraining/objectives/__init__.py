"""What a model is asked. One small class per objective, all of one shape; adding one takes one file."""

from electra_kernels.pretraining.objectives.base import Objective, TokenBatch, take
from electra_kernels.pretraining.objectives.corrupted_rows import CorruptedRows
from electra_kernels.pretraining.objectives.corrupted_tokens import CorruptedTokens
from electra_kernels.pretraining.objectives.replaced_tokens import ReplacedTokenDetection

__all__ = ["CorruptedRows", "CorruptedTokens", "Objective", "ReplacedTokenDetection", "TokenBatch", "take"]
