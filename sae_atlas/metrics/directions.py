"""Directions of the latents: encoder against decoder, decoder rows against each other and against another SAE's."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

ROWS_AT_ONCE = 1024  # rows whose cosines with all others are in memory at once: 134 MB beside 32,768 rows
SETTLED = 0.9  # cosine from which two decoder rows count as the same latent


def unit(rows: Tensor) -> Tensor:
    """Rows [n, d_in] scaled to norm 1; a row of zeros stays zero."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def alignment(encoder: Tensor, decoder: Tensor) -> Tensor:
    """Cosine between the encoder row and the decoder row of every latent, [d_sae], of rows [d_sae, d_in]. -1 to 1.

    1 where a latent writes the direction that it reads, as all do at initialisation. SAELens calls it
    `encoder_decoder_cosine_sim`.
    """
    parts = zip(encoder.split(ROWS_AT_ONCE), decoder.split(ROWS_AT_ONCE), strict=True)
    return torch.cat([(unit(one) * unit(other)).sum(dim=1) for one, other in parts])


def cosine_blocks(rows: Tensor, others: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows of a block, their cosines with all `others` [m, d_in]), block by block; a row of zeros has cosines 0."""
    rows, others = unit(rows), unit(others)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        block = slice(first, first + ROWS_AT_ONCE)
        yield block, rows[block] @ others.T


def cosine_blocks_within(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The same of rows with each other, where each has -infinity with itself."""
    for block, cosines in cosine_blocks(rows, rows):
        cosines.diagonal(block.start).fill_(-math.inf)
        yield block, cosines


def nearest(rows: Tensor) -> Tensor:
    """Largest cosine of every row [n, d_in] with another one, [n]; -1 to 1, NaN if there is no other.

    Its mean over decoder rows, the mean of max (MMCS of a dictionary with itself; Sharkey et al. 2022), tells latents
    that repeat each other: random directions give about sqrt(2 ln n / d_in).
    """
    if len(rows) < 2:
        return rows.new_full((len(rows),), math.nan)
    return torch.cat([cosines.amax(dim=1) for _, cosines in cosine_blocks_within(rows)])


def best_matches(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine of every row [n, d_in] with one of `others` [m, d_in], and the other way round: [n] and [m].

    -1 to 1, NaN where the other side is empty. One product for both ways.
    """
    if not len(rows) or not len(others):
        return rows.new_full((len(rows),), math.nan), others.new_full((len(others),), math.nan)
    forth, back = rows.new_empty(len(rows)), others.new_full((len(others),), -math.inf)
    for block, cosines in cosine_blocks(rows, others):
        forth[block] = cosines.amax(dim=1)
        torch.maximum(back, cosines.amax(dim=0), out=back)
    return forth, back


def partners(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(cosine, index) of the closest of `others` [m, d_in] to every row [n, d_in]; of equally close ones the first."""
    cosines, indices = rows.new_empty(len(rows)), torch.empty(len(rows), dtype=torch.long)
    for block, of_block in cosine_blocks(rows, others):
        cosines[block], indices[block] = of_block.max(dim=1)
    return cosines, indices


def neighbours(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` other rows with the largest cosine with every row [n, d_in], nearest first: indices and cosines, [n, count].

    Fewer where there are fewer other rows.
    """
    closest = [cosines.topk(min(count, len(rows) - 1), dim=1) for _, cosines in cosine_blocks_within(rows)]
    return torch.cat([each.indices for each in closest]), torch.cat([each.values for each in closest])


def settled(rows: Tensor, final: Tensor) -> float:
    """Share of decoder rows [n, d_in] whose best match among the `final` ones [m, d_in] has a cosine of SETTLED or more.

    0 to 1, unitless; 1 for the final ones themselves, NaN if there are no rows. A best match, not the same index: a
    latent may be taken up by another unit (as arXiv 2501.16615 compares SAEs of two seeds).
    """
    return float((best_matches(rows, final)[0] >= SETTLED).double().mean()) if len(rows) else math.nan
