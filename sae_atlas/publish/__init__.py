"""What is published: cards, releases, other formats, the hub."""
