"""What an encoder's states are good for: a linear head on tasks whose labels no objective here has seen."""

from electra_kernels.evaluation.probing.build import TASKS, tasks
from electra_kernels.evaluation.probing.probe import probe
from electra_kernels.evaluation.probing.task import Examples, Task

__all__ = ["TASKS", "Examples", "Task", "probe", "tasks"]
