"""A trial of a training recipe: trains the demo with some values changed, evaluates it on text of its own.

    OMP_NUM_THREADS=1 python -m benchmarks.trial --minutes 5 electra.mask_probability=0.3 recipe.batch_size=8

The command prints evaluations during training, then one line of JSON. Values are fields of `Recipe` (``recipe.``),
`EncoderConfig` (``encoder.``) and `ElectraConfig` (``electra.``). With ``generator.`` the generator gets an encoder of
its own, which differs from ``encoder.`` in the named fields. Minutes become steps at a rate that is measured first, on
one thread, so that two trials can run at the same time. The evaluation uses every sixteenth document of the demo's
training text, which the trial does not train on.
"""

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.facts import text_facts
from electra_kernels.data.rows import encode_rows, unigram_counts
from electra_kernels.data.text import Corpus, split_held_out
from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.evaluation.held_out import FixedCorruption, evaluate_electra, isolated
from electra_kernels.evaluation.real_word_errors import (
    count_words,
    evaluate_real_word_errors,
    fetch_error_pairs,
    real_word_errors,
)
from electra_kernels.models import ElectraConfig, electra_config
from electra_kernels.training.calibration import step_seconds, steps_of_minutes
from electra_kernels.training.objectives import Objective, ReplacedTokenDetection
from electra_kernels.training.recipe import RECIPES, Recipe
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Trainer

EVALUATIONS, EVERY = 5, 16
LENGTH = 64  # tokens per row of the evaluation, whatever the length in training
GROUPS = ("recipe", "encoder", "generator", "electra")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trial", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("numbers", nargs="*", metavar="GROUP.NAME=VALUE", help=f"GROUP: {', '.join(GROUPS)}")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(json.dumps(trial(changes(arguments.numbers), arguments.minutes, arguments.seed)))


def changes(numbers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parses GROUP.NAME=VALUE; returns group → name → value.

    Raises:
        SystemExit: an argument has another form.
    """
    found: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for number in numbers:
        key, _, value = number.partition("=")
        group, _, name = key.partition(".")
        if group not in GROUPS or not name or not value:
            raise SystemExit(f"{number!r} should be GROUP.NAME=VALUE, GROUP one of {', '.join(GROUPS)}")
        found[group][name] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def trial(changed: Mapping[str, Mapping[str, Any]], minutes: float | None, seed: int) -> dict[str, Any]:
    """Train and evaluate; returns the figures on the way and at the end.

    Args:
        changed: from `changes`.
        minutes: length, at the rate of this machine; None trains for ``recipe.steps``.
        seed: decides the weights and the batches.
    """
    corpus = _corpus()
    recipe = replace(RECIPES["demo"], **changed["recipe"])
    tokenizer = train_vocabulary(corpus.train, recipe.vocab_size)
    rows = encode_rows(corpus.train, tokenizer, recipe.length)
    counts = unigram_counts(rows, tokenizer.get_vocab_size())
    facts = text_facts(tokenizer, counts)
    torch.manual_seed(seed)
    objective = ReplacedTokenDetection(
        _config(changed, len(counts), facts.special_ids.mask),
        facts,
        head_start=recipe.head_start,
        head_start_replacements=recipe.head_start_replacements,
        unigram_share=recipe.unigram_share,
    )
    fixed = FixedCorruption(encode_rows(corpus.held_out, tokenizer, LENGTH), counts)
    steps = recipe.steps
    if minutes is not None:
        seconds = step_seconds(_trainer(copy.deepcopy(objective), recipe, steps, seed), rows)
        steps = steps_of_minutes(minutes, [seconds], [1.0])[0]
    trainer = _trainer(objective, recipe, steps, seed)
    points: list[dict[str, float]] = []
    for record in trainer.train([rows]):
        if record.fraction >= (len(points) + 1) / EVALUATIONS:
            points.append({"step": record.step} | evaluate_electra(objective.model, fixed))
            print(_line(points[-1]), flush=True)
    discriminator, word_counts = objective.model.discriminator, count_words(corpus.train)
    items = real_word_errors(corpus.held_out, word_counts, fetch_error_pairs())
    with isolated(objective):
        errors = evaluate_real_word_errors(items, tokenizer, discriminator.logits, word_counts, LENGTH)
    return {
        "changed": changed,
        "tokens": trainer.position.tokens,
        "points": points,
        "real_word_errors": errors,
    }


def _trainer(objective: Objective, recipe: Recipe, steps: int, seed: int) -> Trainer:
    return Trainer(objective, recipe, one_phase(recipe.length, steps), seed=seed)


def _corpus() -> Corpus:
    """Splits the demo's training text into training and evaluation; text that the demo holds out is in neither."""
    documents = split_held_out(documentation_text(print)).train
    evaluated = documents[EVERY // 2 :: EVERY]
    train = [document for document in documents if document not in evaluated]
    known = {paragraph for document in train for paragraph in document.paragraphs}
    new = [
        replace(d, paragraphs=tuple(text for text in d.paragraphs if text not in known)) for d in evaluated
    ]
    return Corpus(train, [document for document in new if document.paragraphs], 0.0)


def _config(changed: Mapping[str, Mapping[str, Any]], vocab_size: int, mask_token_id: int) -> ElectraConfig:
    demo = electra_config("demo", vocab_size=vocab_size, mask_token_id=mask_token_id)
    encoder = replace(demo.discriminator, **changed["encoder"])
    own = changed["generator"]
    generator = replace(encoder, **own) if own else None
    tie = "embeddings" if own else "all"
    return replace(demo, discriminator=encoder, generator=generator, tie=tie, **changed["electra"])


def _line(point: Mapping[str, float]) -> str:
    return (
        f"step {point['step']:6,.0f}  AUC random {point['auc_random']:.4f}  own {point['auc_samples']:.4f}  "
        f"MLM {point['mlm_loss']:.3f}  recall {point['recall']:.4f}"
    )


if __name__ == "__main__":
    main()
