"""From a text to the setting that all runs of a comparison share, and the facts about it for the page."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.facts import text_facts
from electra_kernels.data.held_out import halves
from electra_kernels.data.rows import Rows, encode_rows, spread, unigram_counts
from electra_kernels.data.text import Corpus, read_documents, split_held_out
from electra_kernels.data.vocabulary import special_ids, train_vocabulary
from electra_kernels.evaluation.comparison.setting import SMALL_RECIPE, Setting, small_encoder
from electra_kernels.evaluation.held_out import FixedCorruption, unigram_entropy
from electra_kernels.evaluation.probing import Task, tasks
from electra_kernels.evaluation.probing.replaced_tokens import replaced_tokens
from electra_kernels.models import ElectraConfig
from electra_kernels.models.precision import has_native_bfloat16

# An untrained generator teaches nothing, so the discriminator begins with draws from the word frequencies, as in the
# demo. With Muon `replaced_tokens` leaves chance sooner: with AdamW one seed of three had not after 1 M tokens. A step
# of Muon costs more, hence 32 rows; the rates and beta2 are from trials (benchmarks/FINDINGS.md).
RECIPE = replace(
    SMALL_RECIPE,
    batch_size=32,
    learning_rate=3e-3,
    muon_learning_rate=8e-3,
    head_start=0.35,
    head_start_replacements="unigram",
)
FITTED_ROWS, JUDGED_ROWS = 1_024, 512
# Beside finding replaced tokens, which some objectives do not learn at all, and so not a reason to choose a rate.
CHOICE = ("capitalised", "comma_follows")


def prepare(
    text: Sequence[Path], seconds: float | None, log: Callable[[str], None]
) -> tuple[Setting, dict[str, Any]]:
    """The setting, and the facts that two comparisons must share before their runs may be put side by side.

    Args:
        text: files; empty: the documentation that ``pretrain`` fetches.
        seconds: length of every run; None: its budget of tokens.
        log: called with each line of progress.

    Raises:
        UserError: the text cannot be used.
    """
    corpus = split_held_out(read_documents(text) if text else documentation_text(log))
    tokenizer = train_vocabulary(corpus.train, RECIPE.vocab_size)
    # Every other held-out document serves only the choice of the learning rate.
    choice, judged = halves(corpus.held_out)
    rows, choice_rows, judged_rows = (
        encode_rows(part, tokenizer, RECIPE.length) for part in (corpus.train, choice, judged)
    )
    counts = unigram_counts(rows, tokenizer.get_vocab_size())
    word_pieces = int(rows.maskable.sum())
    log(f"{word_pieces:,} word pieces to train on; making the tasks")
    setting = Setting(
        config=_config(tokenizer),
        text=text_facts(tokenizer, counts),
        rows=rows,
        recipe=RECIPE,
        minutes=None if seconds is None else seconds / 60,
        plateau=unigram_entropy(judged_rows, counts),
        held_out=judged_rows,
        curve=curve_task(rows, judged_rows, counts),
        choice=[
            curve_task(rows, choice_rows, counts),
            *tasks(Corpus(corpus.train, choice, 0.0), tokenizer, RECIPE.length, 0, log, CHOICE),
        ],
        tasks=tasks(Corpus(corpus.train, judged, corpus.overlap), tokenizer, RECIPE.length, 0, log),
    )
    return setting, _facts(setting, corpus, len(choice), len(judged), seconds)


def curve_task(rows: Rows, held_out: Rows, counts: Tensor) -> Task:
    """The task of the learning curves: which tokens were replaced by draws from the word frequencies?"""
    fitted, judged = spread(rows, FITTED_ROWS), spread(held_out, JUDGED_ROWS)
    return replaced_tokens(FixedCorruption(fitted, counts), FixedCorruption(judged, counts))


def _config(tokenizer: Tokenizer) -> ElectraConfig:
    """The small encoder and a generator of half its depth, with the same embeddings, for objectives that need one."""
    encoder = small_encoder(tokenizer.get_vocab_size())
    generator = replace(encoder, num_hidden_layers=max(1, encoder.num_hidden_layers // 2))
    return ElectraConfig(encoder, generator, special_ids(tokenizer).mask)


def _facts(
    setting: Setting, corpus: Corpus, choice: int, judged: int, seconds: float | None
) -> dict[str, Any]:
    recipe = setting.recipe.to_dict()
    del recipe["steps"]  # each run has those of its budget
    return {
        "documents": len(corpus.train),
        "held_out_documents": judged,
        "choice_documents": choice,
        "word_pieces": int(setting.rows.maskable.sum()),
        "seconds": seconds,
        "recipe": recipe,
        "model": setting.config.to_dict(),
        "bfloat16": has_native_bfloat16(torch.device("cpu")),
        "torch": torch.__version__,
    }
