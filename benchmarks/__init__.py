"""How long a training step takes, beside the steps of other libraries; see benchmarks/RESULTS.md."""
