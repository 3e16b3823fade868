"""Read and write a model folder of Hugging Face transformers: config.json, and the tensors in one file or in shards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

# TensorFlow's names, which checkpoints that were converted from it still have.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Buffers that old checkpoints have, and BERT's pooler, which is not part of the encoder.
_IGNORED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Checkpoint(NamedTuple):
    """One model as transformers stores it: config.json, and the tensors by name (``model.state_dict()``)."""

    config: Mapping[str, Any]
    state: Mapping[str, Tensor]


def read_checkpoint(directory: str | Path) -> Checkpoint:
    """Read the config.json and the tensors that ``save_pretrained(directory)`` wrote.

    The tensors come from model.safetensors or, without it, from the shards in model.safetensors.index.json.

    Raises:
        FileNotFoundError: a file is missing, or a shard that the index names is.
        ValueError: a file is damaged, or a tensor is not in the shard that the index names.
    """
    path = Path(directory)
    config = _read_object(path / "config.json")
    if (path / _WEIGHTS).exists():
        return Checkpoint(config, _read_tensors(path / _WEIGHTS))
    if not (path / _INDEX).exists():
        raise FileNotFoundError(f"{path} has neither {_WEIGHTS} nor {_INDEX}, should have one of them")
    return Checkpoint(config, _read_shards(path / _INDEX))


def write_checkpoint(checkpoint: Checkpoint, directory: Path) -> None:
    """Write config.json and model.safetensors, which transformers' ``from_pretrained(directory)`` loads."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(checkpoint.config, indent=2, sort_keys=True)
    config, weights = directory / "config.json", directory / _WEIGHTS
    config.write_text(text + "\n", encoding="utf-8")
    save_file(dict(checkpoint.state), weights, metadata={"format": "pt"})
    weights.chmod(config.stat().st_mode)  # safetensors creates files that only their owner can read


def current_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a checkpoint under today's names, without those that none of our modules has."""
    state = {}
    for name, tensor in checkpoint.state.items():
        if not name.removeprefix("electra.").removeprefix("bert.").startswith(_IGNORED):
            for old, new in _OLD_NAMES.items():
                name = name.removesuffix(old) + new if name.endswith(old) else name
            state[name] = tensor
    return state


def _read_shards(index: Path) -> dict[str, Tensor]:
    shard_of = _read_object(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise ValueError(f"{index} has no weight_map, should map the name of each tensor to its file")
    names = sorted(set(shard_of.values()))
    missing = [shard for shard in names if not (index.parent / shard).is_file()]
    if missing:
        raise FileNotFoundError(f"{index} names {', '.join(missing)}, should be in the same folder")
    shards = {shard: _read_tensors(index.parent / shard) for shard in names}
    state = {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}
    for name, shard in shard_of.items():
        if name not in shards[shard]:
            raise ValueError(f"{index.parent / shard} lacks {name}, should have it, as {index.name} says")
        state[name] = shards[shard][name]
    return state


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}), should be a safetensors file") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # invalid JSON or invalid UTF-8
        raise ValueError(f"{path} is damaged ({error}), should be a JSON object") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} is a JSON {type(read).__name__}, should be an object")
    return read
