"""The model card of a run, which a hub shows: data, licences, recipe, figures, and how to load the models."""

import json
from pathlib import Path
from typing import Any

from electra_kernels._version import __version__
from electra_kernels.data.prepare import DOCUMENTATION
from electra_kernels.evaluation.pages import render
from electra_kernels.evaluation.report import SUMMARY
from electra_kernels.files import write_whole
from electra_kernels.training.model_description import CARD, FOLDERS

# The licence of the documentation, which may differ from that of the code.
LICENCES = {
    "Django": "BSD-3-Clause",
    "SQLAlchemy": "MIT",
    "Twisted": "MIT",
    "Celery": "CC-BY-SA-4.0",
    "Scrapy": "BSD-3-Clause",
}
_TASKS = {
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "token-classification",
    "ForTokenClassification": "token-classification",
}


def write_cards(folder: Path, run: dict[str, Any]) -> None:
    """Write README.md into a model folder and, for one that is published alone, into each folder of transformers in it.

    Without a model it does nothing.

    Args:
        folder: a model folder.
        run: the description of the run, as in run.json or metrics.json; "final" has figures, if there are any.

    Raises:
        OSError: a file cannot be written.
    """
    configs = {
        name: json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        for name in FOLDERS
        if (folder / name).is_dir()
    }
    if not configs:
        return
    write_whole(folder / CARD, model_card(run, configs))
    for name, config in configs.items():
        write_whole(folder / name / CARD, model_card(run, {"": config}, role=name))


def model_card(run: dict[str, Any], configs: dict[str, dict[str, Any]], role: str | None = None) -> str:
    """The card of the models whose config.json are given, by the name of their folder; "" is that of the card."""
    classes = {folder: config["architectures"][0] for folder, config in configs.items()}
    first = next(iter(classes.values()))
    tasks = [task for ending, task in _TASKS.items() if first.endswith(ending)]
    final = run.get("final") or {}
    return render(
        "model_card.md",
        title=f"{first}, {run['config']}" if role else f"{run['objective']}, {run['config']}",
        role=role,
        objective=run["objective"],
        start=run.get("from"),
        version=__version__,
        recipe=run["recipe"],
        text=run["text"],
        loads=classes,
        classes=sorted(set(classes.values())),
        model_types=sorted({config["model_type"] for config in configs.values()}),
        prefix="FOLDER" if role else "FOLDER/",
        pipeline_tag=tasks[0] if tasks else "feature-extraction",
        is_documentation=run["text"]["source"] == DOCUMENTATION,
        licences=LICENCES,
        figures=[
            (label, format(final[name], form)) for name, (label, form) in SUMMARY.items() if name in final
        ],
    )
