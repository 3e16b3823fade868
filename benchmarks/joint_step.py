"""The joint step of ELECTRA, forward and backward: how much time masking, heads and losses add to the two encoders.

The baseline, "encoders alone", is the forward and backward of both encoders with given upstream gradients. All other
variants also mask, transform, sample, replace and compute both losses.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import baselines, masking, variants
from benchmarks.harness import Case, Size
from benchmarks.timers import Graph, Run
from electra_kernels import gather_rows
from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.facts import TextFacts
from electra_kernels.data.vocabulary import SpecialIds
from electra_kernels.models import Electra, ElectraConfig, EncoderConfig, Generator, electra_config
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.training.objectives import ReplacedTokenDetection
from electra_kernels.training.recipe import RECIPES
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Trainer

LENGTH = 128


def cases(size: Size) -> Iterator[Case]:
    native = has_native_bfloat16(torch.get_default_device())
    absent = {} if native else {"bfloat16 autocast": "this device has no bfloat16 instructions"}
    batch = 16 if size == "full" else 2
    yield _case(batch, torch.float32, absent, is_main=size == "full")
    if size != "full":
        return
    if native:
        yield _case(batch, torch.bfloat16, {}, is_main=False)
    yield _demo_step()


def on_gpu(size: Size) -> Iterator[Case]:
    """In bfloat16, with a batch that fills a GPU; encoders and ours also in CUDA graphs."""
    batch = 2 if size == "tiny" else 128
    yield _case(batch, torch.bfloat16, {}, size=size, is_main=False, back_to_back=True)


def config(name: str, size: Size) -> ElectraConfig:
    """ELECTRA "small" or "base"; at size tiny with one layer, a sixteenth of the width and 1,200 words."""
    if size != "tiny":
        return electra_config(name, vocab_size=baselines.VOCAB_SIZE, mask_token_id=baselines.MASK)
    original = electra_config(name, vocab_size=1200, mask_token_id=baselines.MASK)
    assert original.generator is not None
    return replace(original, discriminator=_tiny(original.discriminator), generator=_tiny(original.generator))


def _tiny(encoder: EncoderConfig) -> EncoderConfig:
    return replace(
        encoder,
        embedding_size=encoder.embedding_size // 16,
        hidden_size=encoder.hidden_size // 16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=encoder.intermediate_size // 16,
    )


def _case(
    batch: int,
    dtype: torch.dtype,
    absent: dict[str, str],
    *,
    size: Size = "full",
    is_main: bool,
    back_to_back: bool = False,
) -> Case:
    model = Electra(config("small", size))
    length = 16 if size == "tiny" else LENGTH
    words = model.config.discriminator.vocab_size
    step = _Step(model, torch.randint(1000, words, (batch, length)), dtype)
    runs: dict[str, Run] = {
        "encoders alone": step.encoders,
        "eager, masked rows": lambda: step.run(lambda: step.eager(_loss_of_masked_rows)),
        "eager, all rows": lambda: step.run(lambda: step.eager(_loss_of_all_rows)),
        "ours": lambda: step.run(step.ours),
    }
    if back_to_back:
        for name in ("encoders alone", "ours"):
            runs[f"{name}, in a CUDA graph"] = Graph(runs[name], step.input_ids.device)
    gradient_bytes = sum(parameter.nbytes for parameter in model.parameters())
    return Case(
        "ELECTRA-Small step" if dtype == torch.float32 else "ELECTRA-Small step, autocast",
        {"B": batch, "T": length},
        runs,
        # reads every weight once, writes its gradient once
        bytes_read=gradient_bytes,
        bytes_written=gradient_bytes,
        gradient_bytes=gradient_bytes,
        dtype=dtype,
        absent=absent,
        is_main=is_main,
        adds_to_baseline=True,
        back_to_back=back_to_back,
    )


class _Step:
    """One batch [B, T] through both models, under autocast to bfloat16 unless ``dtype`` is float32."""

    def __init__(self, model: Electra, input_ids: Tensor, dtype: torch.dtype) -> None:
        assert model.generator is not None
        self.model, self.input_ids, self.dtype = model.train(), input_ids, dtype
        self.generator, self.discriminator = model.generator, model.discriminator
        self.everywhere = torch.ones_like(input_ids, dtype=torch.bool)
        widths = (self.generator.encoder.config.hidden_size, self.discriminator.encoder.config.hidden_size)
        self.upstream = [torch.randn(*input_ids.shape, width) / input_ids.numel() for width in widths]

    def run(self, loss: Callable[[], Tensor]) -> None:
        with self._autocast():
            value = loss()
        value.backward()
        self.model.zero_grad(set_to_none=True)

    def encoders(self) -> None:
        with self._autocast():
            states = [part.encoder(self.input_ids) for part in (self.generator, self.discriminator)]
        torch.autograd.backward(
            states, [upstream.to(state.dtype) for upstream, state in zip(self.upstream, states)]
        )
        self.model.zero_grad(set_to_none=True)

    def ours(self) -> Tensor:
        return self.model(self.input_ids, None, self.everywhere).loss

    def eager(
        self, generator_loss: Callable[[Generator, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> Tensor:
        slots = masking.slots(self.input_ids.shape[1])
        masked, positions, targets = baselines.mask(self.input_ids, self.everywhere, slots)
        mlm, tokens = generator_loss(self.generator, masked, positions, targets)
        replaced, is_replaced = baselines.replace(self.input_ids, positions, tokens)
        discriminator = self.discriminator
        hidden = discriminator.transform(discriminator.encoder(replaced))
        logits = F.linear(hidden, discriminator.head.weight, discriminator.head.bias).squeeze(-1)
        rtd = baselines.masked_bce(logits, is_replaced, self.everywhere)
        return mlm + self.model.config.rtd_weight * rtd

    def _autocast(self) -> torch.autocast:
        device = self.input_ids.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype != torch.float32)


def _loss_of_masked_rows(
    generator: Generator, masked: Tensor, positions: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    hidden = generator.transform(gather_rows(generator.encoder(masked), positions))
    logits = F.linear(hidden, generator.head.weight, generator.head.bias)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), baselines.gumbel_max(logits.detach())


def _loss_of_all_rows(
    generator: Generator, masked: Tensor, positions: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    logits = F.linear(
        generator.transform(generator.encoder(masked)), generator.head.weight, generator.head.bias
    )
    labels = torch.full_like(masked, -100).scatter(1, positions, targets)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return loss, baselines.gumbel_max(logits.detach()).gather(1, positions)


def _demo_step() -> Case:
    """The step of ``make demo`` with its optimisers, by the default back ends; the baseline is the reference."""
    recipe = RECIPES["demo"]
    special = SpecialIds(pad=0, unk=100, cls=101, sep=102, mask=baselines.MASK)
    facts = TextFacts(torch.ones(recipe.vocab_size), special, sentence_ends=torch.empty(0, dtype=torch.int64))
    config = electra_config("demo", vocab_size=recipe.vocab_size, mask_token_id=baselines.MASK)
    trainer = Trainer(
        ReplacedTokenDetection(config, facts), recipe, one_phase(recipe.length, recipe.steps), seed=0
    )
    input_ids = torch.randint(1000, recipe.vocab_size, (recipe.batch_size, recipe.length))
    everywhere = torch.ones_like(input_ids, dtype=torch.bool)
    numbers = torch.arange(recipe.batch_size)
    batch = TokenBatch(input_ids, everywhere, everywhere, numbers, numbers)

    def run() -> None:
        trainer.step(batch)

    served = variants.ours("linear_cross_entropy_sample", run, everywhere=True)
    reference = served.pop("ours, reference", run)
    size = sum(parameter.nbytes for parameter in trainer.objective.parameters())
    return Case(
        "demo step with optimiser",
        {"B": recipe.batch_size, "T": recipe.length, "V": recipe.vocab_size},
        {"reference": reference, **served},
        # reads and writes weights, gradients and two moments
        bytes_read=4 * size,
        bytes_written=4 * size,
        gradient_bytes=size,
    )
