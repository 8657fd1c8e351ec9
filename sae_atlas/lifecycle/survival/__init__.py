"""Which latents of a base model survive its fine-tuning."""
