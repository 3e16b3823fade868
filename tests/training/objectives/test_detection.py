import math

import pytest
import torch

from electra_kernels.training.objectives import CorruptedTokens


def test_row_scores_rise_with_the_highest_token(electra_config, facts):
    objective = CorruptedTokens(electra_config, facts)
    mask = torch.tensor([[True, True, False]])
    objective.token_scores = lambda ids, attention_mask: torch.tensor([[1.0, 2.0, 99.0]])
    scores = objective.row_scores(torch.zeros(1, 3, dtype=torch.long), mask)
    assert scores.item() == pytest.approx(math.log(math.e + math.e**2), rel=1e-6)
