"""The training loop, its objectives, optimizers, schedule, checkpoints, alarms and profiler."""
