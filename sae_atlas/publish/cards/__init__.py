"""Model cards and release pages, filled from what the run measured."""
