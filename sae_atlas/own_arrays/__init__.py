"""Activations that the user saved: an array [rows, d] per layer, in files of four formats."""
