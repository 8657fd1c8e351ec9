"""What the benchmarks of speed and load read: a GPT-NeoX with random weights, and the embedded text as bytes."""


def random_model(sizes: dict, context: int, tokens: int, held_out_tokens: int) -> dict:
    """Config sections base_model (of these transformers sizes) and corpus."""
    return {
        "base_model": {
            "name": "random",
            "source": "random",
            "architecture": "gpt_neox",
            "sizes": sizes,
            "seed": 0,
            "tokenizer": "bytes",
        },
        "corpus": {
            "name": "wikipedia-introductions",
            "source": "package",
            "package": "wikipedia-introductions",
            "context": context,
            "tokens": tokens,
            "held_out_tokens": held_out_tokens,
        },
    }
