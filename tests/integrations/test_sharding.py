"""FSDP2: a sharded pair has the losses, gradients and weights of the whole pair."""

import os
import subprocess
import sys
from pathlib import Path

from . import sharded_step


def test_two_ranks_with_shards_of_the_pair_take_the_steps_of_the_whole_pair():
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    process = subprocess.run(
        [*torchrun, sharded_step.__file__],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    for name in (*sharded_step.CASES, "the rest"):
        for rank in (0, 1):
            assert f"rank {rank}: {name}: right" in process.stdout
