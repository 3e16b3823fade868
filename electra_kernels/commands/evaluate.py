"""``electra-kernels evaluate``: metrics of a trained model on text that it was not trained on."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from electra_kernels.commands.options import Commands, add_model, add_text
from electra_kernels.errors import UserError


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="metrics of a trained model on text that it was not trained on",
        description="Print the AUC on random replacements and on the generator's own samples, losses and accuracy.",
    )
    parser.set_defaults(run=run)
    add_model(parser)
    add_text(parser, required=True)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from electra_kernels.evaluation.report import finite

    metrics = evaluate(arguments.model, arguments.text)
    if arguments.json:
        print(json.dumps(finite(metrics), indent=2, allow_nan=False))
        return 0
    for name, value in metrics.items():
        print(f"{name:20}{value:12.4f}" if isinstance(value, float) else f"{name:20}{value:12,}")
    return 0


def evaluate(model: Path, text: Sequence[Path]) -> dict[str, float | int]:
    """The metrics of `evaluate_electra` on all rows of a text.

    Random replacements are drawn by the token frequencies in the checkpoint or, if it has none, by those of ``text``.

    Args:
        model: folder of a checkpoint.
        text: files and folders.

    Raises:
        UserError: there is no checkpoint in ``model``, or the text cannot be read or is too short.
    """
    from electra_kernels.data.rows import encode_rows, unigram_counts
    from electra_kernels.data.text import read_documents
    from electra_kernels.evaluation.held_out import FixedCorruption, evaluate_electra, rarity
    from electra_kernels.training.model_folder import load_checkpoint

    checkpoint = load_checkpoint(model)
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
    metrics: dict[str, float | int] = {"rows": len(rows.input_ids), "tokens": int(rows.maskable.sum())}
    metrics |= evaluate_electra(checkpoint.model, fixed)
    metrics["auc_frequency"] = fixed.token_auc(rarity(fixed.input_ids, counts))
    return metrics
