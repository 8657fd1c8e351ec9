"""Words of the base model's own vocabulary, read where their first letter is asked for.

A word is one token of ASCII letters, maybe after a space. A prompt is a list of lines "word has the first letter: W"; a word
is read where it stands, so what comes behind it in its line counts for nothing, and every line after the first EXAMPLES is
an example for those behind it and a word that is measured. SAEBench builds a prompt of ten examples for each word instead.
"""

import re
from pathlib import Path

import numpy as np
import torch
import zarr

from sae_atlas.activations.save import append_layer
from sae_atlas.base_models.load import embedding_rows, load, load_tokenizer, start_token, without_embedding
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.io.log import progress
from sae_atlas.io.provenance import current_record
from sae_atlas.sites.hooks import capture, check_site
from sae_atlas.sites.trace import forward_pass

EXAMPLES, LINES = 10, 50  # lines before the first word that is measured; lines of a prompt, where the model has room
TEST_SHARE = 5  # a fifth of the words is for the test, in prompts of their own
SEED = 0
LEAST_WORDS = 200
WORD = re.compile(" ?[A-Za-z]+")


def save_words(
    base_model: str | Path,
    words: str | Path,
    layers: list[int],
    site: str,
    count: int,
    dtype: str,
    model_dtype: str,
    prompts_per_batch: int,
    device: str = "auto",
) -> None:
    """Write the activations of `count` words of the vocabulary, or of all there are, at `site` of every one of `layers`.

    words: Zarr v3 group of an array `layerLL [words, d_in]` per layer; attributes: `words`, their texts, and `test`, how many
    of them, the last ones, are for the test. Raises AtlasError for a vocabulary of less than LEAST_WORDS words.
    """
    model, origin = load(base_model, model_dtype, device)
    check_site(model, site, layers, origin)
    tokenizer = load_tokenizer(base_model)
    ids = word_ids(tokenizer, embedding_rows(base_model))
    if len(ids) < LEAST_WORDS:
        raise AtlasError(
            f"evaluation.tasks: first_letter: {len(ids)} tokens of the base model's vocabulary are words of letters, "
            f"less than {LEAST_WORDS}; leave it out"
        )
    prompts, positions, order = in_prompts(tokenizer, ids[:count], room=_positions(model))
    activations: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    with progress(len(prompts), "prompts", "words") as bar, torch.inference_mode():
        for first in range(0, len(prompts), prompts_per_batch):
            batch = slice(first, first + prompts_per_batch)
            with capture(model, site, layers) as captured:
                forward_pass(model, torch.from_numpy(prompts[batch]).to(model.device))
            for layer in layers:
                activations[layer].append(captured[layer].cpu()[torch.from_numpy(positions[batch])])
            bar.update(len(prompts[batch]))
    texts = [tokenizer.decode([number]).strip() for number in order]
    with atomic(words) as partial:
        group = zarr.create_group(partial, zarr_format=3)
        for layer in layers:
            append_layer(group, layer, torch.cat(activations[layer]).float().numpy(), dtype)
        group.attrs.update({"words": texts, "test": len(_halves(ids[:count])[1]), "record": current_record()})


def word_ids(tokenizer, rows: int | None) -> np.ndarray:
    """Ids of the tokens that are words and have one of the embedding's `rows` (None: as many as there are ids), in a seeded
    random order; of a word's spellings (` word`, `Word`) the first.

    Others could be on the other side of the split, where a probe would find the words that it was fitted on.
    """
    readable = set(tokenizer.get_vocab().values()) - without_embedding(tokenizer, rows).keys()
    texts = ((number, tokenizer.decode([number])) for number in sorted(readable))
    spellings: dict[str, int] = {}
    for number, text in texts:
        if WORD.fullmatch(text):
            spellings.setdefault(text.strip().casefold(), number)
    return np.random.default_rng(SEED).permutation(np.array(list(spellings.values()), np.int64))


def in_prompts(tokenizer, ids: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompts [prompts, length] of token ids, at which positions a word is measured [prompts, length] bool, and the measured
    words' ids in the order of these positions: first those for training, then those for the test.

    room: positions of the model. Raises AtlasError where not one word more than the examples fits in.
    """
    start, tails = start_token(tokenizer), {letter: ids_inside(tokenizer, _tail(letter)) for letter in LETTERS}
    line_break = ids_inside(tokenizer, "\n")
    line = len(line_break) + 1 + max(map(len, tails.values()))
    lines = min(LINES, (room - 1) // line)
    if lines <= EXAMPLES:
        raise AtlasError(
            f"evaluation.tasks: first_letter: {EXAMPLES} examples and a word take {1 + (EXAMPLES + 1) * line} tokens, the "
            f"model has {room} positions; leave it out"
        )
    generator, rows, measured, order = np.random.default_rng(SEED), [], [], []
    for half in _halves(ids):
        size = min(lines - EXAMPLES, len(half) // 2)  # so that there are examples beside them
        for first in range(0, len(half), size):
            asked = half[first : first + size]
            others = np.setdiff1d(half, asked)
            examples = generator.choice(others, EXAMPLES, replace=False)
            row, where = [start], []
            for number in (*examples, *asked):
                where.append(len(row) + len(line_break))
                row += [*line_break, int(number), *tails[tokenizer.decode([number]).strip()[0].upper()]]
            rows.append(row)
            measured.append(where[EXAMPLES:])
            order.append(asked)
    length = max(map(len, rows))
    prompts = np.array([row + [start] * (length - len(row)) for row in rows], np.int64)
    positions = np.zeros(prompts.shape, bool)
    for of_prompt, where in zip(positions, measured, strict=True):
        of_prompt[where] = True
    return prompts, positions, np.concatenate(order)


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _halves(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The words for training and those for the test."""
    test = len(ids) // TEST_SHARE
    return ids[: len(ids) - test], ids[len(ids) - test :]


def _tail(letter: str) -> str:
    return f" has the first letter: {letter}"


def ids_inside(tokenizer, text: str) -> list[int]:
    """Of a text behind others: many tokenizers, as Llama 2's, put a space before whatever begins one."""
    alone, behind, first = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in ("a", f"a{text}", text))
    return behind[len(alone) :] if behind[: len(alone)] == alone else first


def _positions(model) -> int:
    """Positions of the model, where its config names them; else as many as a prompt of LINES could need."""
    text = model.config.get_text_config(decoder=True)
    return getattr(text, "max_position_embeddings", None) or LINES * 1000
