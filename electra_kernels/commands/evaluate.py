"""``electra-kernels evaluate``: the figures of a trained model on text that it has not seen."""

from collections.abc import Sequence
from pathlib import Path

from electra_kernels.data.rows import encode_rows, unigram_counts
from electra_kernels.data.text import read_documents
from electra_kernels.errors import UserError
from electra_kernels.evaluation.held_out import FixedCorruption, evaluate_electra, rarity
from electra_kernels.training.checkpoint import load_checkpoint


def evaluate(directory: Path, text: Sequence[Path]) -> dict[str, float | int]:
    """Figures of `evaluate_electra` on all rows of the text; random replacements follow the training text's.

    Raises:
        UserError: no checkpoint in ``directory``, or text that cannot be read.
    """
    checkpoint = load_checkpoint(directory)
    rows = encode_rows(read_documents(text), checkpoint.tokenizer, checkpoint.recipe.length)
    if not rows.maskable.any():
        raise UserError(
            f"too little text in {', '.join(map(str, text))}: no document has enough known words for a row"
        )
    unigram = checkpoint.model.unigram
    counts = (
        unigram_counts(rows, checkpoint.tokenizer.get_vocab_size()) if unigram is None else unigram.shares()
    )
    fixed = FixedCorruption(rows, counts)
    figures: dict[str, float | int] = {"rows": len(rows.input_ids), "tokens": int(rows.maskable.sum())}
    figures |= evaluate_electra(checkpoint.model, fixed)
    figures["auc_frequency"] = fixed.token_auc(rarity(fixed.input_ids, counts))
    return figures
