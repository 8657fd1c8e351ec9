"""Token ids to strings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from sae_atlas.base_models.load import is_model, load_tokenizer
from sae_atlas.io.files import read_json
from sae_atlas.texts.labels import Labels


class Decoder:
    """Ids to strings, each decoded once."""

    def __init__(self, decode: Callable[[list[int]], str]):
        self.decode, self.known = decode, {}

    @classmethod
    def of_atlas(cls, base_model: str | Path, context: int, row_texts: dict | None) -> "Decoder":
        """Of a base model's provenance its tokenizer; of saved activations what their rows are called (texts.labels)."""
        if is_model(base_model):
            return cls.of_model(base_model)
        return cls(Labels(row_texts, read_json(base_model)["rows"], context))

    @classmethod
    def of_model(cls, provenance: str | Path) -> "Decoder":
        """With the prepared base model's tokenizer. Its file is read without transformers, which take 4 s to import."""
        file = Path(provenance).parent / read_json(provenance)["path"] / "tokenizer.json"
        if not file.is_file():  # a tokenizer of another kind
            return cls(load_tokenizer(provenance).decode)
        tokenizer = Tokenizer.from_file(str(file))
        return cls(lambda ids: tokenizer.decode(ids, skip_special_tokens=False))

    def __call__(self, tokens: np.ndarray) -> tuple[str, ...]:
        return tuple(self.one(token) for token in tokens.tolist())

    def one(self, token: int) -> str:
        if token not in self.known:
            self.known[token] = self.decode([token])
        return self.known[token]
