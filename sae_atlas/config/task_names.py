"""What tasks are called, and how much text they read. Without pydantic: jobs read it."""

OF_TOPICS = ("sparse_probing", "targeted_probe_perturbation", "spurious_correlation_removal")  # they read documents
FIRST_LETTER = "first_letter"  # reads words
TASK_TOKENS = 24_000  # of documents, where the config does not say
