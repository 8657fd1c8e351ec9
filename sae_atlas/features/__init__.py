"""What the latents mean: contexts, logit lens, evolution, and what others' viewers read."""
