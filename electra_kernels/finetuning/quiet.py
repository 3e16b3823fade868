"""Keep the libraries from writing on the terminal while the command line reports on its own."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import transformers


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within the block transformers, datasets and accelerate report errors only, and draw no bars.

    Warnings of Python are hidden, too: they concern the code of a library, which a user of the command cannot change.
    """
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    dataset_verbosity, dataset_bars = (
        datasets.logging.get_verbosity(),
        not datasets.are_progress_bars_disabled(),
    )
    accelerate = logging.getLogger("accelerate")
    level = accelerate.level
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    accelerate.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        datasets.logging.set_verbosity(dataset_verbosity)
        accelerate.setLevel(level)
        if bars:
            transformers.logging.enable_progress_bar()
        if dataset_bars:
            datasets.enable_progress_bars()
