"""Peak memory of turning a text into a corpus: what the rules ask for, and what the plan prints.

Of every token its id is held (at most 4 bytes), and a few numbers per context and document: benchmarks/LOAD.md has what was
measured, and tests/test_memory.py holds TOKEN. The workflow reads this module, so it imports nothing.
"""

# Bytes. Libraries and a vocabulary of 49,152 take 0.55e9 with a text in a file and 0.7e9 with a stream, of which 10,000
# documents are shuffled together; the rest is for larger vocabularies and longer documents.
BASE = 1.2e9
TOKEN = 6  # bytes of a token
OF_TEXTS = ("tokenize", "tokenize_domain")  # rules


def text_memory(atlas, rule: str) -> float:
    """Bytes of the job of a rule of OF_TEXTS."""
    sizes = atlas.settings(rule)
    return BASE + TOKEN * (sizes["train_tokens"] + sizes["held_out_tokens"])
