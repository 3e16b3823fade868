"""A training step of ELECTRA in bfloat16, with optimiser: ours against the same step on transformers' encoders.

For a GPU, where it is part of `make gpu-check`. torch.compile works layer by layer: one compilation serves all layers
of an encoder and takes seconds, and only operations within a layer can fuse anyway. Embeddings, masking and both heads
are compiled as well. Dropout is 0.1 everywhere.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import baselines, joint_step, masking
from benchmarks.harness import Case, Size
from benchmarks.timers import Graph, Run
from electra_kernels import gather_rows
from electra_kernels.models import Electra, ElectraConfig, EncoderConfig
from electra_kernels.training.optimizers import make_adamw

BATCH, LENGTH = 128, 128


def cases(name: str, size: Size) -> Iterator[Case]:
    """ELECTRA "small" or "base"."""
    config = joint_step.config(name, size)
    shape = (2, 16) if size == "tiny" else (BATCH, LENGTH)
    input_ids = torch.randint(1000, config.discriminator.vocab_size, shape)
    everywhere = torch.ones_like(input_ids, dtype=torch.bool)
    theirs, absent = _theirs(config, input_ids, everywhere)
    runs = theirs | _ours(config, input_ids, everywhere)
    parameters = sum(parameter.nbytes for parameter in Electra(config).parameters())
    yield Case(
        f"ELECTRA-{name.capitalize()} training step",
        {"B": shape[0], "T": shape[1]},
        runs,
        # reads and writes weights, gradients and two moments
        bytes_read=4 * parameters,
        bytes_written=4 * parameters,
        gradient_bytes=parameters,
        dtype=torch.bfloat16,
        absent=absent,
        is_main=True,
        back_to_back=True,
    )


def _ours(config: ElectraConfig, input_ids: Tensor, everywhere: Tensor) -> dict[str, Run]:
    def training(model: Electra) -> Run:
        return _training_run(model, lambda: model(input_ids, None, everywhere).loss, input_ids.device)

    run, compiled = training(Electra(config).train()), training(_compiled(Electra(config).train()))
    return {
        "ours": run,
        "ours, in a CUDA graph": Graph(run, input_ids.device),
        "ours, compiled": compiled,
        "ours, compiled, in a CUDA graph": Graph(compiled, input_ids.device),
    }


def _theirs(
    config: ElectraConfig, input_ids: Tensor, everywhere: Tensor
) -> tuple[dict[str, Run], dict[str, str]]:
    try:
        model, other = (TransformersElectra(config).train() for _ in range(2))
    except ImportError as error:
        return {}, {"eager": str(error)}

    def training(model: TransformersElectra) -> Run:
        return _training_run(model, lambda: model(input_ids, everywhere), input_ids.device)

    compiled = training(other.compile_parts())
    return {
        "eager": training(model),
        "torch.compile": compiled,
        "torch.compile, in a CUDA graph": Graph(compiled, input_ids.device),
    }, {}


def _training_run(model: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> Run:
    optimizer = make_adamw(model.parameters(), learning_rate=1e-4, weight_decay=0.01)
    for group in optimizer.param_groups:
        group["capturable"] = device.type == "cuda"

    def run() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def _compile(part: nn.Module) -> None:
    part.compile(dynamic=False, backend=baselines.compiler)


def _compiled(model: Electra) -> Electra:
    """Compile everything around the ops; the ops themselves are opaque to torch.compile."""
    generator, discriminator = model.generator, model.discriminator
    assert generator is not None
    _compile(discriminator.encoder.embeddings)
    for part in (generator, discriminator):
        _compile(part.transform)
        for layer in part.encoder.layers:
            _compile(layer)
    return model


class TransformersElectra(nn.Module):
    """The joint step on transformers' encoders, with logits only at the masked tokens.

    Raises:
        ImportError: transformers is not installed.
    """

    def __init__(self, config: ElectraConfig) -> None:
        from transformers import ElectraModel

        super().__init__()
        assert config.generator is not None
        self.rtd_weight = config.rtd_weight
        self.discriminator = ElectraModel(_their_config(config.discriminator))
        self.generator = ElectraModel(_their_config(config.generator))
        self.generator.embeddings = self.discriminator.embeddings
        self.mlm_head = _MaskedTokens(config.generator)
        self.rtd_head = _ReplacedTokens(config.discriminator)
        self.mask: Callable[..., Any] = baselines.mask
        self.replace: Callable[..., Any] = baselines.replace

    def compile_parts(self) -> "TransformersElectra":
        _compile(self.discriminator.embeddings)
        for layer in [*self.generator.encoder.layer, *self.discriminator.encoder.layer]:
            _compile(layer)
        _compile(self.mlm_head)
        _compile(self.rtd_head)
        self.mask, self.replace = (
            torch.compile(recipe, dynamic=False, backend=baselines.compiler)
            for recipe in (baselines.mask, baselines.replace)
        )
        return self

    def forward(self, input_ids: Tensor, everywhere: Tensor) -> Tensor:
        """Loss [] of both models; input_ids [B, T] int64, everywhere [B, T] bool."""
        masked, positions, targets = self.mask(input_ids, everywhere, masking.slots(input_ids.shape[1]))
        hidden = self.generator(input_ids=masked).last_hidden_state
        word = self.discriminator.embeddings.word_embeddings.weight
        mlm, tokens = self.mlm_head(hidden, positions, targets, word)
        replaced, is_replaced = self.replace(input_ids, positions, tokens)
        hidden = self.discriminator(input_ids=replaced).last_hidden_state
        return mlm + self.rtd_weight * self.rtd_head(hidden, is_replaced, everywhere)


class _MaskedTokens(nn.Module):
    """Loss [] and a sample [B, K] from hidden states [B, T, H] and the word embedding [V, E]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self, hidden: Tensor, positions: Tensor, targets: Tensor, word: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows = self.norm(F.gelu(self.dense(gather_rows(hidden, positions))))
        logits = F.linear(rows, word, self.bias)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return loss, baselines.gumbel_max(logits.detach())


class _ReplacedTokens(nn.Module):
    """Loss [] from hidden states [B, T, H] and the labels ``is_replaced`` [B, T]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.prediction = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, is_replaced: Tensor, mask: Tensor) -> Tensor:
        logits = self.prediction(F.gelu(self.dense(hidden))).squeeze(-1)
        return baselines.masked_bce(logits, is_replaced, mask)


def _their_config(config: EncoderConfig) -> Any:
    from transformers import ElectraConfig as TheirConfig

    return TheirConfig(
        vocab_size=config.vocab_size,
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
    )
