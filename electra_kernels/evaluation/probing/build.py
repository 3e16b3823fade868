"""All tasks, built from the text once."""

from collections.abc import Callable, Mapping

from tokenizers import Tokenizer

from electra_kernels.data.text import Corpus
from electra_kernels.errors import UserError
from electra_kernels.evaluation.probing.errors import error_detection
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
    corpus: Corpus, tokenizer: Tokenizer, length: int, seed: int, say: Callable[[str], None]
) -> list[Task]:
    """The tasks of `TASKS`, in that order.

    One that cannot be built (its material cannot be downloaded, the text has nothing to ask about) is left out and
    ``say`` is told why; ``TASKS[name](corpus, tokenizer, length, seed)`` raises that UserError.

    Args:
        corpus: training and held-out documents.
        tokenizer: of the encoders that are to be probed.
        length: T of the rows, which the encoders must take.
        seed: of what is fitted on; what is judged by is always the same.
        say: is told what was not built.
    """
    built = []
    for name, build in TASKS.items():
        try:
            built.append(build(corpus, tokenizer, length, seed))
        except UserError as error:
            say(f"{name} is not measured: {error}")
    return built
