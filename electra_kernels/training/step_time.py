"""Where the time of a training step goes, measured after the training on a copy of the model."""

import copy
import statistics
import time
from collections import defaultdict

import torch

from electra_kernels import gather_rows, mask_tokens, replace_tokens
from electra_kernels.data.rows import Rows, batches
from electra_kernels.models import Electra
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.training.objectives import TokenBatch, token_batch
from electra_kernels.training.optimizers import make_optimizers
from electra_kernels.training.recipe import Recipe

SECONDS = 20  # no further step is begun after that
PARTS = ("data", "generator", "head and sampling", "discriminator", "optimiser")


class _Laps:
    """Adds the time since the last lap to a part; waits for the device first."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)
        self.start = time.perf_counter()

    def lap(self, part: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[part] += now - self.start
        self.start = now


def time_step(model: Electra, rows: Rows, recipe: Recipe, *, repeats: int, seed: int) -> dict[str, float]:
    """Median seconds of each of PARTS in one joint step, forward and backward; the model is left as it is.

    The step is that of `Electra.forward`, cut where one part hands over to the next: the gradient of each part
    is taken on its own.
    """
    if model.generator is None:
        raise ValueError("model has no generator, should have generator_kind='model'")
    model = copy.deepcopy(model).train()
    device = next(model.parameters()).device
    optimizers = make_optimizers(model, recipe)
    indices = batches(rows, recipe.batch_size, seed)
    measured: dict[str, list[float]] = {part: [] for part in PARTS}
    end = time.perf_counter() + SECONDS
    with torch.random.fork_rng():
        for repeat in range(repeats + 2):
            laps = _Laps(device)
            tokens = token_batch(rows, next(indices), device)
            laps.lap("data")
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_native_bfloat16(device)):
                _joint_step(model, tokens, laps)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            laps.lap("optimiser")
            if repeat >= 2:  # the first ones warm up
                for part in PARTS:
                    measured[part].append(laps.seconds[part])
                if time.perf_counter() > end:
                    break
    return {part: statistics.median(seconds) for part, seconds in measured.items()}


def _joint_step(model: Electra, tokens: TokenBatch, laps: _Laps) -> None:
    input_ids, attention_mask, maskable, _ = tokens
    config, generator, discriminator = model.config, model.generator, model.discriminator
    assert generator is not None
    masked = mask_tokens(
        input_ids,
        maskable,
        mask_token_id=config.mask_token_id,
        vocab_size=config.discriminator.vocab_size,
        probability=config.mask_probability,
    )
    laps.lap("head and sampling")
    states = generator.encoder(masked.input_ids, attention_mask)
    hidden = generator.transform(gather_rows(states, masked.positions))
    laps.lap("generator")
    cut = hidden.detach().requires_grad_()
    mlm = generator.head(cut, masked.targets)
    mlm.loss.backward()
    replaced = replace_tokens(input_ids, masked.positions, mlm.tokens)
    laps.lap("head and sampling")
    hidden.backward(cut.grad)
    laps.lap("generator")
    hidden = discriminator.transform(discriminator.encoder(replaced.input_ids, attention_mask))
    laps.lap("discriminator")
    cut = hidden.detach().requires_grad_()
    rtd = discriminator.head(cut, replaced.is_replaced, attention_mask)
    (config.rtd_weight * rtd.loss).backward()
    laps.lap("head and sampling")
    hidden.backward(cut.grad)
    laps.lap("discriminator")
