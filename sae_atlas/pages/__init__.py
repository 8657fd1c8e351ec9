"""The pages people open first: results/index.html and the model cards as HTML beside it."""
