"""Documents: read from files of the user's own, data sets of the hub and packages, in a seeded random order."""
