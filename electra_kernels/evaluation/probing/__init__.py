"""Probes of an encoder: a linear head on tasks whose labels no objective of this package is trained on."""

from electra_kernels.evaluation.probing.build import TASKS, tasks
from electra_kernels.evaluation.probing.probe import probe
from electra_kernels.evaluation.probing.task import Examples, Task

__all__ = ["TASKS", "Examples", "Task", "probe", "tasks"]
