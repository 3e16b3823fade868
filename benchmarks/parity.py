"""``python -m benchmarks.parity [NAME ...]``: our models against transformers'.

Each named configuration is shrunk: widths and windows divided by 8, four layers at most. "written" goes from ours to
transformers, "read" from transformers to ours. The largest absolute differences, in float32, are over the real tokens
of a batch without padding and of one with it.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import BertProcessing
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification, ElectraForPreTraining

from electra_kernels import models

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
V, LENGTH, DIVISOR, MASK = 120, 40, 8, 4
PARTS = ("discriminator", "generator")
DETECTORS: dict[str, Any] = {"electra": ElectraForPreTraining, "modern": AutoModelForTokenClassification}
COLUMNS = ("hidden states", "discriminator's logits", "generator's logits", "sentence vectors")


def shrunk(name: str) -> models.ElectraConfig:
    """The configuration with the same options and smaller sizes."""
    config = models.electra_config(name, vocab_size=V, mask_token_id=MASK)
    generator = config.generator and _shrunk_encoder(config.generator)
    return replace(config, discriminator=_shrunk_encoder(config.discriminator), generator=generator)


def _shrunk_encoder(config: models.EncoderConfig) -> models.EncoderConfig:
    widths: tuple[str, ...] = ("embedding_size", "hidden_size", "intermediate_size")
    if config.global_every > 1:
        widths += ("local_window",)
    sizes: dict[str, Any] = {name: getattr(config, name) // DIVISOR for name in widths}
    return replace(config, **sizes, num_hidden_layers=min(config.num_hidden_layers, 4))


def compare(name: str, folder: Path) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """For both directions: for each of COLUMNS but the last, the difference without and with padding."""
    torch.manual_seed(0)
    ours = moved(models.Electra(shrunk(name)))
    classes = (DETECTORS[ours.config.discriminator.family], AutoModelForMaskedLM)
    models.save_transformers(ours, folder / "written", tokenizer=words())
    theirs = [kind.from_pretrained(folder / "written" / part).eval() for part, kind in zip(PARTS, classes)]
    yield "written", differences(ours, theirs)
    theirs = [moved(type(model)(model.config)) for model in theirs]
    for part, model in zip(PARTS, theirs):
        model.save_pretrained(folder / "read" / part)
    parts = [models.read_checkpoint(folder / "read" / part) for part in PARTS]
    yield "read", differences(models.from_transformers(*parts, mask_token_id=MASK), theirs)


def moved(model: Any) -> Any:
    """The model with weights far from their initial values, so that swapping any two of them shows."""
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def differences(ours: Any, theirs: list[Any]) -> list[tuple[float, float]]:
    ids = torch.randint(len(SPECIAL), V, (4, LENGTH))
    padded = torch.arange(LENGTH) < torch.tensor([[LENGTH], [27], [12], [3]])
    functions = (ours.discriminator.encoder, ours.discriminator.logits, ours.generator.logits)

    def largest(function: Any, model: Any, mask: torch.Tensor) -> float:
        expected = model(ids, attention_mask=mask.long())[0].squeeze(-1)
        return (function(ids, mask.long()) - expected)[mask].abs().max().item()

    pairs = zip(functions, (theirs[0].base_model, *theirs))
    return [(largest(*pair, torch.ones_like(padded)), largest(*pair, padded)) for pair in pairs]


@torch.no_grad()
def sentence_difference(folder: Path) -> float:
    """sentence-transformers' mean pooling of a discriminator's folder against a masked mean of our hidden states."""
    from sentence_transformers import SentenceTransformer

    texts = [" ".join(f"w{7 * row + word}" for word in range(3 + 9 * row)) for row in range(4)]
    theirs = torch.from_numpy(SentenceTransformer(str(folder), device="cpu").encode(texts))
    rows = [torch.tensor(encoding.ids) for encoding in words().encode_batch(texts)]
    ids = pad_sequence(rows, batch_first=True)  # [PAD] is 0
    mask = (ids != 0).long()
    hidden = models.encoder_from_transformers(models.read_checkpoint(folder))(ids, mask)
    return ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) - theirs).abs().max().item()


def words() -> Tokenizer:
    """A tokenizer of V whole words."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *(f"w{n}" for n in range(V - 5))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def main(names: list[str]) -> None:
    print(f"| configuration | direction | {' | '.join(COLUMNS)} |", "|---|---|---|---|---|---|", sep="\n")
    for name in names or models.CONFIGURATIONS:
        with tempfile.TemporaryDirectory() as folder:
            table = dict(compare(name, Path(folder)))
            vectors = f"{sentence_difference(Path(folder) / 'written' / 'discriminator'):.1e}"
        for direction, columns in table.items():
            shown = [f"{plain:.1e}, {padded:.1e}" for plain, padded in columns]
            last = vectors if direction == "written" else "–"
            print(f"| `{name}` | {direction} | {' | '.join([*shown, last])} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
