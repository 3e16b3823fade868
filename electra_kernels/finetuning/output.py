"""The output folder of a fine-tuning: what it holds, and which one may be replaced."""

import json
import re
from pathlib import Path
from typing import Any

from electra_kernels.errors import UserError

METRICS = "metrics.json"
MODEL = "model"
_OWN = re.compile(r"model|metrics\.json|predictions\.[a-z]+|seed-\d+")


def check_output(output: Path, identity: dict[str, Any], *, replace: bool) -> None:
    """Check that the folder is absent, empty, or holds nothing but the result of the same command.

    Args:
        output: the folder.
        identity: the options that decide the result, by name.
        replace: the result of another command may be replaced, too.

    Raises:
        UserError: it is a file, has other content, or belongs to another command.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"--output {output} is a file, should be a folder")
    names = sorted(path.name for path in output.iterdir())
    known = _known(output / METRICS)
    foreign = names if known is None else [name for name in names if not _OWN.fullmatch(name)]
    if foreign:
        raise UserError(
            f"--output {output} holds {foreign[0]}, which is not from electra-kernels finetune: choose another folder, "
            "or move it away"
        )
    if known is None or replace:
        return
    for name, value in identity.items():
        if known.get(name) != value:
            raise UserError(
                f"--output {output} holds a result with {name} {known.get(name)}, not {value}: choose another folder, "
                "or --replace it"
            )


def _known(path: Path) -> dict[str, Any] | None:
    """The options of the fine-tuning that wrote a metrics.json; None if it is not from one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return dict(values["finetuning"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
