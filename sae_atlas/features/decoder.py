"""Token ids to strings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from string import ascii_letters

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
            return cls(inside_text(load_tokenizer(provenance)))
        return cls(inside_text(Tokenizer.from_file(str(file))))

    def __call__(self, tokens: np.ndarray) -> tuple[str, ...]:
        return tuple(self.one(token) for token in tokens.tolist())

    def one(self, token: int) -> str:
        if token not in self.known:
            self.known[token] = self.decode([token])
        return self.known[token]


def inside_text(tokenizer) -> Callable[[list[int]], str]:
    """A function that gives the text of some ids as it stands inside a longer text: ` cat` for `▁cat`.

    tokenizer: of transformers or of tokenizers. Many decoders, as Llama 2's, take the space off whatever begins a text, and
    strings of single tokens would join to one word. So the ids are decoded behind a letter, which is then cut off; where the
    vocabulary holds no single letter they are decoded as they are. Special tokens stay, and no space is cleaned up.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)  # what transformers wraps is several times as fast
    if isinstance(backend, Tokenizer):
        decode = partial(backend.decode, skip_special_tokens=False)
    else:
        decode = partial(backend.decode, clean_up_tokenization_spaces=False)
    vocabulary = backend.get_vocab()
    letters = {letter: vocabulary[letter] for letter in ascii_letters if letter in vocabulary}
    first = next((number for letter, number in letters.items() if decode([number]) == letter), None)
    return decode if first is None else lambda ids: decode([first, *ids])[1:]
