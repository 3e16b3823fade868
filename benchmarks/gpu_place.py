"""Where a section of `gpu_check` runs, and where it writes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.gpu_plan import FOLDER
from benchmarks.harness import Size


@dataclass
class Place:
    """Where a section runs and writes.

    Attributes:
        section: its name.
        dry_run: on the CPU, with tiny sizes.
        facts: of the section, as they stand in the file.
    """

    section: str
    dry_run: bool
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry_run else "cuda")

    @property
    def size(self) -> Size:
        return "tiny" if self.dry_run else "full"

    def write(self, cases: list[dict[str, Any]] | None = None) -> None:
        machine = results.machine(self.device)
        results.merge(path(self.dry_run), machine, self.section, self.facts, cases)


def path(dry_run: bool) -> Path:
    if dry_run:
        return FOLDER / "dry-run.json"
    return results.FOLDER / f"{results.machine(torch.device('cuda'))['name']}.json"


def first_line(text: str | None) -> str:
    return next(iter((text or "").splitlines()), "")[:200]
