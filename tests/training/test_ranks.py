"""Ranks, micro-batches, DDP and FSDP2 give the same training; a checkpoint of some ranks continues on others."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("ranks.py")
# Rows of a micro-batch, wrapper, optimizer; see ranks.py. Every step has 8 rows, so one rank takes 8 or 2 at once and
# each of two ranks 4 or 2. With "alone" DDP has weights that are not used.
CASES = [
    (
        1,
        ["8-ddp-adamw", "2-ddp-adamw", "8-fsdp-adamw", "8-ddp-muon", "8-ddp-adamw-alone", "8-ddp-adamw-half"],
    ),
    (
        2,
        [
            "4-ddp-adamw",
            "2-ddp-adamw",
            "4-fsdp-adamw",
            "2-fsdp-adamw",
            "2-ddp-muon",
            "2-fsdp-muon",
            "2-ddp-adamw-vocabulary",
            "4-fsdp-adamw-vocabulary",
            "2-ddp-adamw-alone",
            "2-fsdp-adamw-alone",
            "4-fsdp-adamw-half",
            "4-fsdp-adamw-from-1/ddp",
            "4-ddp-adamw-from-2/fsdp",
        ],
    ),
    (1, ["8-ddp-adamw-from-2/fsdp", "8-ddp-adamw-from-1/ddp"]),
]
TRAINED = [(ranks, case) for ranks, cases in CASES for case in cases if "half" not in case]
# Muon's iteration enlarges rounding.
TOLERANCES = {"adamw": 3e-7, "muon": 1e-5}


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(ranks, case) → the weights and the metrics of the last record."""
    folder = tmp_path_factory.mktemp("ranks")
    for ranks, cases in CASES:
        port = free_port()
        commands = [[sys.executable, SCRIPT, rank, ranks, port, folder, *cases] for rank in range(ranks)]
        started = [subprocess.Popen([*map(str, command)]) for command in commands]
        assert [process.wait(timeout=300) for process in started] == [0] * ranks
    return {
        (ranks, case): torch.load(folder / f"{ranks}-{case.replace('/', '')}.pt") for ranks, case in TRAINED
    }


@pytest.mark.parametrize(("ranks", "case"), TRAINED)
def test_the_weights_do_not_depend_on_how_a_batch_is_cut(trained, ranks, case):
    optimizer = case.split("-")[2]
    alone = "-alone" if case.endswith("alone") else ""
    reference, result = trained[1, f"8-ddp-{optimizer}{alone}"], trained[ranks, case]
    for name, expected in reference["weights"].items():
        difference = (result["weights"][name].double() - expected.double()).abs().max()
        assert difference <= TOLERANCES[optimizer], name
    if "from" in case:
        return  # the metrics are those of the second half
    for name in ("mlm_loss", "rtd_loss", "gradient_norm", "padding"):
        assert result["metrics"][name] == pytest.approx(reference["metrics"][name], rel=1e-4), name
    # The draws are the same, sample for sample.
    for name in ("replaced", "sampled_accuracy"):
        assert result["metrics"][name] == reference["metrics"][name], name


def test_a_resumed_training_is_bit_equal_on_the_same_ranks(trained):
    whole, resumed = (trained[1, case]["weights"] for case in ("8-ddp-adamw", "8-ddp-adamw-from-1/ddp"))
    for name, expected in whole.items():
        assert torch.equal(resumed[name], expected), name
