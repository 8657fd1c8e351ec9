"""Activations: saved by one forward pass (save), shuffled and measured (shard), read for training (store)."""
