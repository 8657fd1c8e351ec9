"""SAEBench's questions: what can be read from latents and changed through them, on documents and on words."""
