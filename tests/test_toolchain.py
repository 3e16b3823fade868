"""The ops in the processes of torch's tools: torchrun with two ranks, a DataLoader with workers."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import electra_kernels as ek

SCRIPT = Path(__file__).parent / "distributed_step.py"


def test_ddp_and_fsdp_ranks_have_the_gradient_of_the_whole_batch():
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(
        [*torchrun, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    for backend in ek.backends().available:
        for kind in ("ddp", "fully_shard"):
            for rank in (0, 1):
                assert f"rank {rank}: {kind} with {backend} is right" in process.stdout


def _collate(rows):
    ids, uniforms = (torch.stack(values) for values in zip(*rows))
    return ek.mask_tokens(ids, ids > 5, mask_token_id=3, vocab_size=90, max_predictions=4, uniforms=uniforms)


def test_masking_in_the_workers_of_a_data_loader():
    """The ops first run on several threads in this process; a forked worker has none of these threads."""
    logits = torch.randn(64, 5000)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    ek.sample_tokens(logits)
    torch.set_num_threads(before)
    rows = list(zip(torch.randint(0, 90, (32, 20)), ek.draw_uniforms((32, 4, 2))))
    batches = zip(*(list(DataLoader(rows, 8, collate_fn=_collate, num_workers=n)) for n in (0, 2)))
    for here, there in batches:
        for one, other in zip(here, there):
            assert torch.equal(one, other)
