"""Distillation floors: predicted from the importances of the latents, and measured with students."""
