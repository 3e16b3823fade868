"""``electra-kernels detect``: the discriminator's probability for every word piece of a text."""

from collections.abc import Sequence
from pathlib import Path

from electra_kernels.pretraining.checkpoint import load_checkpoint
from electra_kernels.pretraining.colouring import ScoredToken, score_rows
from electra_kernels.pretraining.errors import UserError
from electra_kernels.pretraining.evaluation import slices
from electra_kernels.pretraining.rows import encode_rows
from electra_kernels.pretraining.text import Document


def detect(directory: Path, texts: Sequence[str]) -> list[list[ScoredToken]]:
    """Score each text; one longer than the rows that the model was trained on is cut in rows.

    Raises:
        UserError: no checkpoint in ``directory``, or a text without words.
    """
    checkpoint = load_checkpoint(directory)
    lines = []
    for number, text in enumerate(texts, start=1):
        document = Document("text", tuple(line for line in text.splitlines() if line.strip()))
        rows = encode_rows([document], checkpoint.tokenizer, checkpoint.recipe.length, shortest=1)
        if not len(rows.input_ids):
            raise UserError(f"text {number} has no words")
        line: list[ScoredToken] = []
        for part in slices(rows):
            ids, mask = rows.input_ids[part], rows.attention_mask[part]
            scored = score_rows(checkpoint.model.discriminator, checkpoint.tokenizer, ids, mask)
            line += [token for row in scored for token in row]
        lines.append(line)
    return lines
