"""The table of tasks, and their construction from a text."""

from collections.abc import Callable, Iterable, Mapping

from tokenizers import Tokenizer

from electra_kernels.data.text import Corpus
from electra_kernels.errors import UserError
from electra_kernels.evaluation.probing.real_word_errors import error_detection
from electra_kernels.evaluation.probing.sentiment import sentiment
from electra_kernels.evaluation.probing.task import Task
from electra_kernels.evaluation.probing.writing import capitalised, comma_follows

Build = Callable[[Corpus, Tokenizer, int, int], Task]

TASKS: Mapping[str, Build] = {
    "real_word_errors": error_detection,
    "capitalised": capitalised,
    "comma_follows": comma_follows,
    "sentiment": sentiment,
}


def tasks(
    corpus: Corpus,
    tokenizer: Tokenizer,
    length: int,
    seed: int,
    log: Callable[[str], None],
    names: Iterable[str] = tuple(TASKS),
) -> list[Task]:
    """The tasks called ``names``, in that order; by default all of `TASKS`.

    A task that cannot be built is left out, and ``log`` gets the reason: its material cannot be downloaded, or the
    text has nothing to ask about. ``TASKS[name](corpus, tokenizer, length, seed)`` raises that UserError.

    Args:
        corpus: training and held-out documents.
        tokenizer: the tokenizer of the encoders.
        length: T of the rows, which the encoders must take.
        seed: seed of the training examples; the test examples are always the same.
        log: called with a line for each task that is left out.
        names: keys of `TASKS`.
    """
    built = []
    for name in names:
        try:
            built.append(TASKS[name](corpus, tokenizer, length, seed))
        except UserError as error:
            log(f"{name} is not measured: {error}")
    return built
