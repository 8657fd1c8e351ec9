"""Base models: where they come from (packages, prepare) and how they are loaded (load)."""
