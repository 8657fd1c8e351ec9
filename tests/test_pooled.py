"""Pooling per document equals a loop over documents and latents, however the text is cut into batches."""

import numpy as np
import pytest
import torch

from sae_atlas.features.documents import PEAK_COLUMNS, Pooled


def entries(latents: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Active entries as CSR: starts, columns, values."""
    rows, columns = latents.nonzero(as_tuple=True)
    starts = np.searchsorted(rows.numpy(), np.arange(len(latents) + 1))
    return starts, columns.numpy(), latents[rows, columns].numpy()


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(60, 7, generator=generator) * (torch.rand(60, 7, generator=generator) > 0.7)
    latents[:, 3] = 0  # dead
    latents[5:9, 1] = 2.0  # equal peaks
    x = torch.randn(60, 4, generator=generator)
    document = torch.arange(60) // 13 % 3 * 10  # two of them go on after others
    return latents, x, torch.arange(60) % 11, torch.arange(60) % 16, document


@pytest.mark.parametrize("batch", [60, 7, 1])
def test_pooled_is_a_loop_over_documents(text, batch):
    latents, x, tokens, position, document = text
    pooled = Pooled(7, 4)
    for first in range(0, 60, batch):
        f, *others = (each[first : first + batch] for each in text)
        pooled.add(*entries(f), *(each.numpy() for each in others), np.ones(len(f), bool))
    expected, raw = [], []
    for name in document.unique():
        inside = document == name
        raw.append((int(name), tokens[inside].tolist(), position[inside].tolist(), x[inside].mean(dim=0)))
        for latent in range(7):
            f = latents[inside, latent]
            if f.max() > 0:
                peak = int((f == f.max()).nonzero()[0])
                mean, at = float(f.double().mean()), (int(tokens[inside][peak]), int(position[inside][peak]), peak)
                expected.append((int(name), latent, float(f[peak]), mean, *at))
    found = pooled.table()
    assert tuple(found.column_names) == PEAK_COLUMNS
    np.testing.assert_allclose(found.to_pandas().to_numpy(), np.array(expected), rtol=1e-6)
    table = pooled.raw_table().to_pandas()
    assert list(zip(table.document, map(list, table.tokens), map(list, table.positions), strict=True)) == [
        row[:3] for row in raw
    ]
    # A mean may be near 0, so its error is one of the rows: at most eps of the largest at each of 13 additions, over 13.
    rounding = float(x.abs().max()) * np.finfo(np.float32).eps
    means = torch.stack([row[3] for row in raw]).numpy()
    np.testing.assert_allclose(np.stack(table["mean"]), means, rtol=0, atol=13 * rounding)


def test_a_text_in_which_nothing_fires_has_an_empty_table():
    pooled = Pooled(7, 4)
    pooled.add(*entries(torch.zeros(3, 7)), np.ones((3, 4)), *(np.zeros(3, int) for _ in range(3)), np.ones(3, bool))
    assert pooled.table().num_rows == 0
    assert pooled.raw_table().num_rows == 1


def test_what_does_not_count_is_not_there(text):
    counts = np.arange(60) % 4 > 0
    f, *others = text
    whole, part = Pooled(7, 4), Pooled(7, 4)
    whole.add(*entries(f * torch.from_numpy(counts)[:, None]), *(each.numpy() for each in others), counts)
    kept = torch.from_numpy(np.flatnonzero(counts))
    part.add(*entries(f[kept]), *(each[kept].numpy() for each in others), np.ones(len(kept), bool))
    assert whole.table().equals(part.table()) and whole.raw_table().equals(part.raw_table())
