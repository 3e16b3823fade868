"""The weights in a folder of transformers: safetensors only, because loading a pickle can run any code."""

from pathlib import Path

from electra_kernels.errors import UserError

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights as safetensors, in one file or in shards.

    Raises:
        UserError: it holds a pickle instead.
    """
    if any((folder / name).is_file() for name in _WEIGHTS):
        return True
    pickles = [name for name in _PICKLES if (folder / name).is_file()]
    if pickles:
        raise UserError(
            f"{folder}: its weights are the pickle {pickles[0]}, which is not read because it can run any code; where "
            "the folder is trusted, load it once with transformers and write it with save_pretrained"
        )
    return False
