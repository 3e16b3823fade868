"""A record of a comparison with chosen scores, without any training."""

from electra_kernels.evaluation.comparison.setting import UNTRAINED


def made_run(objective, seed, figure, budget=1_000):
    """A run whose score is ``figure`` at every task: half of it with the encoder fine-tuned."""
    return {
        "objective": objective,
        "budget": 0 if objective == UNTRAINED else budget,
        "seed": seed,
        "learning_rate": 3e-3,
        "tokens": budget,
        "seconds": 2.0,
        "held_out": {"mlm_accuracy": 0.25},
        "curve": [{"tokens": 0, "figure": 0.5}, {"tokens": budget, "figure": figure}],
        "probes": {"commas": {"frozen": figure, "fine_tuned": figure / 2}},
        "alarms": [],
    }


def made_record(curves, spread=0.01, seeds=3):
    """A record in which the mean score of an objective is ``curves[objective][budget]``.

    The scores of its seeds are ``spread`` apart, in the same way for all objectives, so the differences have no spread.
    """
    runs = [made_run(UNTRAINED, seed, 0.5) for seed in range(seeds)]
    for name, curve in curves.items():
        for budget, mean in curve.items():
            runs += [
                made_run(name, seed, mean + spread * (seed - (seeds - 1) / 2), budget)
                for seed in range(seeds)
            ]
    described = {"per": "token", "labels": "every token", "detects": "", "cannot_detect": ""}
    return {
        "objectives": {name: dict(described) for name in curves},
        "baselines": {"commas": {"metric": "AUC", "per": "token", "word alone": 0.6}},
        "curve_baseline": {"rarity of the word": 0.51},
        "tried": [],
        "runs": runs,
    }
