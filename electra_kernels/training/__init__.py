"""The training loop, its objectives, optimizers, schedule, checkpoints and alarms."""
