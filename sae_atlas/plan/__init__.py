"""What will be done: the config checked and resolved, and the grid of layers, snapshots and recipes it means."""
