"""electra_kernels.json of a model folder: the objective, the recipe and the options that config.json does not hold."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from electra_kernels.data.rows import SHORTEST_ROW
from electra_kernels.errors import UserError
from electra_kernels.files import write_whole
from electra_kernels.training.recipe import Recipe

DESCRIPTION, CARD, UNIGRAM = "electra_kernels.json", "README.md", "unigram.safetensors"
FOLDERS = ("discriminator", "generator", "encoder")
FILES = (DESCRIPTION, CARD, UNIGRAM, *FOLDERS)
FORMAT = 2


def write_description(directory: Path, objective: str, recipe: Recipe, options: Mapping[str, Any]) -> None:
    """Write electra_kernels.json. It is the first file of an unfinished folder, which it identifies as ours."""
    values = {
        "format": FORMAT,
        "objective": objective,
        "recipe": recipe.to_dict(),
        "options": dict(options),
    }
    write_whole(directory / DESCRIPTION, json.dumps(values, indent=2) + "\n")


def is_model_folder(directory: Path) -> bool:
    """Whether a folder holds only what `pretrain`, of this version or a former one, writes; it may be unfinished."""
    if not directory.is_dir():
        return False
    names = {path.name for path in directory.iterdir() if not path.name.endswith(".part")}
    if DESCRIPTION in names:
        return names <= set(FILES) and "format" in _json_object(directory / DESCRIPTION)
    return not names or former_layout(directory) is not None


def read_description(directory: Path) -> tuple[Recipe, str, dict[str, Any]]:
    """The recipe, the name of the objective and the options of `ElectraConfig` in electra_kernels.json.

    Raises:
        UserError: there is none, it cannot be used, or a former version wrote the folder.
    """
    path = directory / DESCRIPTION
    if not path.exists() and (reason := former_layout(directory)):
        raise UserError(f"{directory} has the layout of a former version of electra_kernels: {reason}")
    values = _json_object(existing(path))
    try:
        if values["format"] != FORMAT:
            raise ValueError(f"format is {values['format']}, should be {FORMAT}: a newer version wrote it")
        recipe = Recipe(**values["recipe"])
        if not isinstance(recipe.length, int) or not SHORTEST_ROW + 2 <= recipe.length < 2**31:
            raise ValueError(
                f"length is {recipe.length}, should be a whole number of at least {SHORTEST_ROW + 2}"
            )
        return recipe, str(values["objective"]), dict(values["options"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no description of electra-kernels pretrain: {error}") from error


def former_layout(directory: Path) -> str | None:
    """What to do with a model folder of a former version, with one config.json for all models; None if it is none."""
    values = _json_object(directory / "config.json", required=False)
    if values.keys() >= {"generator", "discriminator"}:
        return "use its folders generator and discriminator"
    if "recipe" not in values or not values.keys() & {"model", "encoder"}:
        return None
    encoder = values.get("encoder") or values["model"].get("discriminator", {})
    if encoder.get("position_embedding") == "rotary" or encoder.get("norm") == "pre":
        return "its rotary or pre-norm encoder no longer exists, train it again"
    return "open it with that version, and write it with electra_kernels.models.save_transformers"


def _json_object(path: Path, *, required: bool = True) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if required:
            raise UserError(f"{path} is not readable as JSON: {error}") from error
        return {}
    return values if isinstance(values, dict) else {}


def existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing: {path.parent} is no checkpoint of electra-kernels pretrain")
    return path
