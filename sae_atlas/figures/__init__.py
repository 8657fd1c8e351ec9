"""Figures: one file each, drawn from the run's tables, PNG and SVG, the same bytes for the same input."""
