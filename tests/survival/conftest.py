"""Prepared data and uninterrupted runs, made once."""

import random
import subprocess
import sys

import pytest
from small_language import WORDS

from survival.runs import COMMAND, ENVIRONMENT, STEPS, finished


def prepare(folder, seed):
    rng = random.Random(seed)
    text = folder / f"{seed}.txt"
    text.write_text("\n\n".join(" ".join(rng.choices(WORDS, k=60)) for _ in range(300)))
    arguments = [
        "prepare",
        "--text",
        text,
        "--output",
        folder / str(seed),
        "--vocab-size",
        "200",
        "--processes",
        "1",
    ]
    subprocess.run([sys.executable, *COMMAND, *arguments], env=ENVIRONMENT, check=True, capture_output=True)
    return folder / str(seed)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data"), 0)


@pytest.fixture(scope="session")
def other_data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data"), 1)


@pytest.fixture(scope="session")
def uninterrupted(data, tmp_path_factory):
    """The output folder of a run of STEPS steps with (ranks, options), made when it is asked for first."""
    folder, made = tmp_path_factory.mktemp("uninterrupted"), {}

    def output(ranks=1, *options):
        key = (ranks, *options)
        if key not in made:
            made[key] = folder / f"{len(made)}"
            finished(made[key], "--data", data, "--steps", STEPS, *options, ranks=ranks)
        return made[key]

    return output
