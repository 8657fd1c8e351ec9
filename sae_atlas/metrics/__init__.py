"""Measurement on held-out text: one metric per function, with its formula, unit, range and source."""
