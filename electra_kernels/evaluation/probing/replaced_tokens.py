"""The task of finding tokens that were replaced by draws from the word frequencies."""

from functools import partial

from electra_kernels.evaluation.held_out import FixedCorruption, rarity
from electra_kernels.evaluation.probing.task import Examples, Task, area


def replaced_tokens(train: FixedCorruption, test: FixedCorruption) -> Task:
    """The task of finding the replaced tokens among those that could be replaced.

    Args:
        train: the rows that a head is fitted to.
        test: the rows that it is judged by.
    """
    fitted, judged = _examples(train), _examples(test)
    baselines = {"rarity of the word": area(judged, lambda input_ids, mask: rarity(input_ids, test.counts))}
    return Task("replaced_tokens", "token", "AUC", baselines, fitted, judged, partial(area, judged))


def _examples(fixed: FixedCorruption) -> Examples:
    return Examples(fixed.input_ids, fixed.attention_mask, fixed.maskable, fixed.is_replaced)
