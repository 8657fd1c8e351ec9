"""What the command line lists of a model and of a finished atlas."""
