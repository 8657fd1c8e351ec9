"""Logit lens: the tokens that a latent's direction promotes and suppresses when it goes straight to the logits.

nostalgebraist (2020) reads hidden states through the final norm and the unembedding; here decoder rows are read so.
"""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sae_atlas.features.decoder import inside_text
from sae_atlas.io.log import logger
from sae_atlas.sites import INTO_STREAM
from sae_atlas.sites.measure import measure

TOKENS = 10  # of each kind
LATENTS_AT_ONCE = 256  # latents whose logits are in memory at once
LOGITS_PER_BLOCK = 64  # logits whose largest stands for them in the first selection
LENS_COLUMNS = ("promoted", "promoted_logits", "suppressed", "suppressed_logits")


def logit_lens(model, directions: Tensor) -> Tensor:
    """Logits [n, vocabulary] of directions [n, d_model]: W_U (norm(d) - norm(0)), which leaves the norm's bias out.

    norm: the modules between the residual stream and the unembedding. Unitless; for a norm without bias (RMSNorm) the same for
    any length of the direction. Tokens are compared within a row.
    """
    # Run as modules, for their weights may have to be fetched.
    *before, head = map(model.get_submodule, measure(model).before_logits)
    nothing = torch.zeros_like(directions[:1], device=model.device, dtype=model.dtype)
    seen, unmoved = directions.to(nothing), nothing
    for module in before:
        seen, unmoved = module(seen), module(unmoved)
    seen = seen - unmoved
    return head(seen) - head(torch.zeros_like(seen[:1]))


def extremes(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(values, indices) [n, count] of the largest logits of each row [n, vocabulary], largest first.

    Exact: the `count` largest lie in the `count` blocks whose own largest are largest. Fewer where the vocabulary is small.
    """
    padded = torch.nn.functional.pad(logits, (0, -logits.shape[1] % LOGITS_PER_BLOCK), value=-torch.inf)
    blocks = padded.view(len(logits), -1, LOGITS_PER_BLOCK)
    best = blocks.amax(dim=2).topk(min(count, blocks.shape[1]), dim=1).indices
    candidates = torch.gather(blocks, 1, best[:, :, None].expand(-1, -1, LOGITS_PER_BLOCK)).flatten(1)
    values, candidate = candidates.topk(min(count, logits.shape[1]), dim=1)
    block = torch.gather(best, 1, candidate // LOGITS_PER_BLOCK)
    return values, block * LOGITS_PER_BLOCK + candidate % LOGITS_PER_BLOCK


def lens_columns(model, tokenizer, decoder: Tensor, site: str) -> dict[str, pa.Array]:
    """LENS_COLUMNS, a row per decoder row [d_sae, d_in]: tokens as strings and their logits.

    The lists are empty where the site is neither the residual stream nor added to it, as the unembedding never reads its
    directions, and where the model computes its logits from the stream by more than modules.
    """
    if site in INTO_STREAM and measure(model).before_logits is None:
        logger.warning("no promoted tokens: the model's stream reaches its logits through more than modules")
    if site not in INTO_STREAM or measure(model).before_logits is None:
        return no_lens(len(decoder))
    strings = np.array(token_strings(tokenizer, model.get_output_embeddings().weight.shape[0]), object)
    columns = {name: [] for name in LENS_COLUMNS}
    for first in range(0, len(decoder), LATENTS_AT_ONCE):
        logits = logit_lens(model, decoder[first : first + LATENTS_AT_ONCE]).float()
        for kind, sign in (("promoted", 1), ("suppressed", -1)):
            values, tokens = extremes(sign * logits, TOKENS)
            columns[kind] += strings[tokens.cpu().numpy()].tolist()
            columns[f"{kind}_logits"] += (sign * values).cpu().numpy().tolist()
    return {name: pa.array(rows, _type(name)) for name, rows in columns.items()}


def no_lens(latents: int) -> dict[str, pa.Array]:
    """LENS_COLUMNS of latents whose directions no unembedding reads."""
    return {name: pa.array([[]] * latents, _type(name)) for name in LENS_COLUMNS}


def token_strings(tokenizer, count: int) -> list[str]:
    """Every id as text (decoder.inside_text); ids that the tokenizer does not have, which pad the embedding or are holes in it,
    as `<id>`.
    """
    ids, decode = set(tokenizer.get_vocab().values()), inside_text(tokenizer)
    return [decode([i]) if i in ids else f"<{i}>" for i in range(count)]


def _type(name: str) -> pa.DataType:
    return pa.list_(pa.float32() if name.endswith("logits") else pa.string())
