"""The trainer: the only loop, its hooks, checkpoints, losses, schedules."""
