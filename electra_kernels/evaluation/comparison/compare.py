"""``electra-kernels compare``: objectives side by side, with the same encoder, start, text, budgets and probes."""

import json
import math
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from electra_kernels.errors import UserError
from electra_kernels.evaluation.comparison.page import write_page
from electra_kernels.evaluation.comparison.prepare import prepare
from electra_kernels.evaluation.comparison.records import Log, Record, finished_records, require_same_setting
from electra_kernels.evaluation.comparison.setting import UNTRAINED, Run, Setting
from electra_kernels.evaluation.report import finite
from electra_kernels.files import write_whole
from electra_kernels.training.lock import locked
from electra_kernels.training.objectives import OBJECTIVES

RATES = (1.5e-3, 3e-3)


@dataclass(frozen=True)
class Options:
    """The options of the command line.

    Attributes:
        output: folder of the page, its curves, compare.json, and the runs with their encoders. Finished runs in it
            are not repeated.
        objectives: names in OBJECTIVES.
        text: files; empty: the documentation that ``pretrain`` fetches.
        tokens: the budgets, from small to large: each is a run of its own, whose learning rate decays to 0 at its end.
            The result is the same on every machine of the same precision.
        seconds: length of each run instead of ``tokens``.
        seeds: number of seeds per objective, for each budget or for all of them.
        rates: learning rates that are tried with every objective.
        processes: runs at once, each on one thread.
    """

    output: Path
    objectives: Sequence[str]
    text: Sequence[Path] = ()
    tokens: Sequence[int] = (1_000_000,)
    seconds: float | None = None
    seeds: Sequence[int] = (3,)
    rates: Sequence[float] = RATES
    processes: int = os.cpu_count() or 1

    def plan(self) -> dict[int, int]:
        """Budget → number of seeds, from small to large; the budget is 0 if ``seconds`` are given.

        Raises:
            UserError: the two lists do not fit together, or the budgets are not in ascending order.
        """
        budgets = list(self.tokens) if self.seconds is None else [0]
        seeds = list(self.seeds) * (len(budgets) if len(self.seeds) == 1 else 1)
        if len(seeds) != len(budgets):
            raise UserError(
                f"--seeds has {len(seeds)} numbers, should have one, or one for each of the {len(budgets)} budgets"
            )
        if budgets != sorted(set(budgets)):
            raise UserError(f"--tokens is {','.join(map(str, budgets))}, should be in ascending order")
        return dict(zip(budgets, seeds))


def names(given: str) -> list[str]:
    """The objectives in a comma-separated list, each once.

    Raises:
        UserError: a name is not in OBJECTIVES.
    """
    found = list(dict.fromkeys(given.split(",")))
    for name in found:
        if name not in OBJECTIVES:
            raise UserError(f"--objectives has {name!r}, should be names among {', '.join(OBJECTIVES)}")
    return found


def compare(options: Options, log: Log) -> Path:
    """Train and probe all objectives, and write the page after each budget; returns its path.

    Every learning rate is tried with the first seed at the second-smallest budget, or at the only one. The rate whose
    frozen encoder is best at replaced tokens, capitals and commas (the mean AUC), in held-out text that is used for
    nothing else, is the rate of the objective at all budgets.

    Args:
        options: the options of the command line.
        log: called with each line of progress.

    Raises:
        UserError: an option or the text cannot be used, the folder holds runs of another text or model, or another
            process writes there.
        KeyboardInterrupt: the comparison was stopped; its argument says where the finished runs are.
    """
    plan = options.plan()
    try:
        with locked(options.output):
            return _compare(options, plan, log)
    except KeyboardInterrupt as stop:
        raise type(stop)(
            f"the finished runs are in {options.output / 'runs'} and will not run again"
        ) from None


def _compare(options: Options, plan: dict[int, int], log: Log) -> Path:
    folder = options.output / "runs"
    setting, facts = prepare(options.text, options.seconds, log)
    require_same_setting(options.output / "setting.json", facts)
    folder.mkdir(exist_ok=True)
    path = folder / "setting.pickle"
    write_whole(path, pickle.dumps(setting))
    train, choose, probe = (
        partial(finished_records, phase, path, options.processes, log)
        for phase in ("trained", "chosen", "probed")
    )
    trial = list(plan)[min(1, len(plan) - 1)]
    trials = [Run(name, rate, 0, trial) for name in options.objectives for rate in options.rates]
    tried = _joined(train(trials), choose(trials))
    rates = {name: _best_rate(name, tried) for name in options.objectives}
    described = {
        **facts,
        "rates": list(options.rates),
        "trial": trial,
        "processes": options.processes,
        "objectives": {name: _described(name) for name in options.objectives},
        "baselines": _baselines(setting),
        "curve_baseline": setting.curve.baselines,
        "tried": tried,
    }
    untrained = [Run(UNTRAINED, 0.0, seed) for seed in range(max(plan.values()))]
    runs = _joined(train(untrained), probe(untrained))
    for budget, seeds in plan.items():
        # One seed after the other, so that a comparison that is stopped has all objectives for some of them.
        new = [Run(name, rate, seed, budget) for seed in range(seeds) for name, rate in rates.items()]
        runs += _joined(train(new), probe(new))
        budgets = {each: count for each, count in plan.items() if each <= budget}
        page = _write(options.output, described | {"budgets": budgets, "runs": runs})
    return page


def _joined(trained: Sequence[Record], measured: Sequence[Record]) -> list[Record]:
    return [training | figures for training, figures in zip(trained, measured)]


def _write(folder: Path, record: Record) -> Path:
    text = json.dumps(finite(record), indent=1, allow_nan=False)
    write_whole(folder / "compare.json", text + "\n")
    return write_page(folder, record)


def _best_rate(name: str, tried: Sequence[Record]) -> float:
    own = [run for run in tried if run["objective"] == name]
    best = max(own, key=lambda run: -math.inf if math.isnan(run["choice"]) else run["choice"])
    return float(best["learning_rate"])


def _described(name: str) -> dict[str, str]:
    kind = OBJECTIVES[name]
    return {field: getattr(kind, field) for field in ("per", "labels", "detects", "cannot_detect")}


def _baselines(setting: Setting) -> Record:
    return {task.name: {"metric": task.metric, "per": task.per, **task.baselines} for task in setting.tasks}
