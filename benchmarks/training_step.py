"""A whole training step of ELECTRA in bfloat16, optimiser included: ours, and a careful one on transformers' encoders.

torch.compile works layer by layer: one compilation serves all layers of an encoder, in seconds, and all that fuses lies
within a layer. Embeddings, masking and both heads are compiled as well. Dropout is 0.1 everywhere.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import contenders, masking, recipes, step
from benchmarks.harness import Case, Size
from benchmarks.meters import Graph
from electra_kernels import gather_rows
from electra_kernels.models import Electra, ElectraConfig, EncoderConfig
from electra_kernels.training.optimizers import make_adamw

BATCH, LENGTH = 128, 128
STEPS = 1_000_000
# Dense bfloat16 FLOP/s of the data sheets; the first name that is a part of the GPU's.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "B200": 2250e12,
}
FLOPS = (
    "3 x the forward's; that of an encoder: tokens x layers x (8 H^2 + 4 H I + 4 T H) + 2 tokens E H where E != H; "
    "heads: 2 N E (H' + V) + 2 tokens H (H + 1), with H' of the generator"
)


def cases(name: str, size: Size) -> Iterator[Case]:
    """name: "small" or "base"."""
    config = step.config(name, size)
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
        # weights, gradients and two moments
        bytes_read=4 * parameters,
        bytes_written=4 * parameters,
        gradient_bytes=parameters,
        dtype=torch.bfloat16,
        absent=absent,
        is_main=True,
        back_to_back=True,
    )


def _ours(config: ElectraConfig, input_ids: Tensor, everywhere: Tensor) -> dict[str, contenders.Run]:
    def training(model: Electra) -> contenders.Run:
        return _step(model, lambda: model(input_ids, None, everywhere).loss, input_ids.device)

    run, compiled = training(Electra(config).train()), training(_compiled(Electra(config).train()))
    return {
        "ours": run,
        "ours, in a CUDA graph": Graph(run, input_ids.device),
        "ours, compiled": compiled,
        "ours, compiled, in a CUDA graph": Graph(compiled, input_ids.device),
    }


def _theirs(
    config: ElectraConfig, input_ids: Tensor, everywhere: Tensor
) -> tuple[dict[str, contenders.Run], dict[str, str]]:
    try:
        model, other = (TransformersElectra(config).train() for _ in range(2))
    except ImportError as error:
        return {}, {"eager": str(error)}

    def training(model: TransformersElectra) -> contenders.Run:
        return _step(model, lambda: model(input_ids, everywhere), input_ids.device)

    compiled = training(other.compile_parts())
    return {
        "eager": training(model),
        "torch.compile": compiled,
        "torch.compile, in a CUDA graph": Graph(compiled, input_ids.device),
    }, {}


def _step(model: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> contenders.Run:
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
    part.compile(dynamic=False, backend=contenders.compiler)


def _compiled(model: Electra) -> Electra:
    """What lies around the ops, which stay what they are."""
    generator, discriminator = model.generator, model.discriminator
    assert generator is not None
    _compile(discriminator.encoder.embeddings)
    for part in (generator, discriminator):
        _compile(part.transform)
        for layer in part.encoder.layers:
            _compile(layer)
    return model


class TransformersElectra(nn.Module):
    """The joint step as a careful user of transformers writes it: logits at the masked tokens only.

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
        self.mask: Callable[..., Any] = recipes.mask
        self.replace: Callable[..., Any] = recipes.replace

    def compile_parts(self) -> "TransformersElectra":
        _compile(self.discriminator.embeddings)
        for layer in [*self.generator.encoder.layer, *self.discriminator.encoder.layer]:
            _compile(layer)
        _compile(self.mlm_head)
        _compile(self.rtd_head)
        self.mask, self.replace = (
            torch.compile(recipe, dynamic=False, backend=contenders.compiler)
            for recipe in (recipes.mask, recipes.replace)
        )
        return self

    def forward(self, input_ids: Tensor, everywhere: Tensor) -> Tensor:
        """The loss of both; input_ids [B, T] int64, everywhere [B, T] bool."""
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
        return loss, recipes.gumbel_max(logits.detach())


class _ReplacedTokens(nn.Module):
    """Loss [] from hidden states [B, T, H] and what is replaced [B, T]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.prediction = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, is_replaced: Tensor, mask: Tensor) -> Tensor:
        logits = self.prediction(F.gelu(self.dense(hidden))).squeeze(-1)
        return recipes.masked_bce(logits, is_replaced, mask)


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


def flops(config: ElectraConfig, batch: int, length: int) -> float:
    """Floating-point operations of one step, by the formula FLOPS; the optimiser's are left out."""
    generator, discriminator, tokens = config.generator, config.discriminator, batch * length
    assert generator is not None
    masked, embedding, width = (
        batch * masking.slots(length),
        generator.embedding_size,
        discriminator.hidden_size,
    )
    heads = 2 * masked * embedding * (generator.hidden_size + generator.vocab_size) + 2 * tokens * width * (
        width + 1
    )
    return 3.0 * (heads + sum(_encoder_flops(part, tokens, length) for part in (generator, discriminator)))


def _encoder_flops(config: EncoderConfig, tokens: int, length: int) -> int:
    width, embedding = config.hidden_size, config.embedding_size
    layer = 8 * width**2 + 4 * width * config.intermediate_size + 4 * length * width
    projection = 0 if embedding == width else 2 * embedding * width
    return tokens * (config.num_hidden_layers * layer + projection)


def figures(record: dict[str, Any], config: ElectraConfig, gpu: str) -> dict[str, Any]:
    """Of each contender of a record of `cases`: tokens a second, share of the GPU's peak, hours for STEPS steps."""
    batch, length = record["sizes"]["B"], record["sizes"]["T"]
    work = flops(config, batch, length)
    peak = next((value for part, value in PEAKS.items() if part in gpu), None)

    def of(seconds: float) -> dict[str, Any]:
        return {
            "tokens_per_second": round(batch * length / seconds),
            "share_of_peak": None if peak is None else round(work / seconds / peak, 4),
            "hours": round(STEPS * seconds / 3600, 2),
        }

    return {
        "flops": work,
        "formula": FLOPS,
        "peak_flops_per_second": peak,
        "contenders": {
            contender: of(values["median_seconds"]) for contender, values in record["contenders"].items()
        },
    }
