"""Training: recipes, the loop over a window, schedules, the L0 controller, checkpoints and resume files."""
