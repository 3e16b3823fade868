"""A vocabulary made by hand, and rows of its tokens, for tests that look at single tokens."""

import torch

from electra_kernels.data.vocabulary import SpecialIds
from electra_kernels.training.objectives import TokenBatch

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
STOP, QUERY, CONTINUATION, WORD = 5, 6, 7, 8  # from WORD on, every id is a word
VOCABULARY, LENGTH = 100, 40


def batch_of(texts, documents=None):
    """Rows [CLS] text [SEP] padding; each row is a document of its own unless ``documents`` says otherwise."""
    rows = [[SPECIAL.cls, *words, SPECIAL.sep] for words in texts]
    ids = torch.tensor([row + [SPECIAL.pad] * (LENGTH - len(row)) for row in rows])
    document = torch.arange(len(rows)) if documents is None else torch.tensor(documents)
    special = torch.tensor([SPECIAL.pad, SPECIAL.unk, SPECIAL.cls, SPECIAL.sep, SPECIAL.mask])
    return TokenBatch(ids, ids != SPECIAL.pad, ~torch.isin(ids, special), document, torch.arange(len(ids)))


def texts_of(ids):
    """The words of each row between its first and last special token."""
    return [row[1 : max(i for i, token in enumerate(row) if token == SPECIAL.sep)] for row in ids.tolist()]
