"""The explorer: a folder of static pages to browse the latents of an atlas, opened from disk without a server."""
