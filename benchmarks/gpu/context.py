"""The context of a section: the device that it runs on, and the file that it writes to."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.gpu.plan import FOLDER
from benchmarks.harness import Size


@dataclass
class SectionContext:
    """The device, the size and the results of one section.

    Attributes:
        section: its name.
        dry_run: whether it runs on the CPU with tiny sizes.
        facts: results about the section as a whole.
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
        """Put the facts, and the cases if given, into the results file."""
        machine = results.machine(self.device)
        results.merge(path(self.dry_run), machine, self.section, self.facts, cases)


def path(dry_run: bool) -> Path:
    """The results file."""
    if dry_run:
        return FOLDER / "dry-run.json"
    return results.FOLDER / f"{results.machine(torch.device('cuda'))['name']}.json"
