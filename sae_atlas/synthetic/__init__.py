"""Rows of numbers of a known generative model, in place of activations: what an SAE should find in them is known."""
