"""The gradient of a loss beside the squared error joins a decoded batch, on CPU and GPU."""

from dataclasses import replace

import torch
from torch import Tensor

ENTRIES_AT_ONCE = 2**14  # whose decoder rows are gathered together


def pulled(step, entries, decoded, rows: Tensor, scale: float):
    """`decoded` (of cpu.Step or gpu.Step) with the gradient that control.pull gives of all latents' reconstruction.

    Of the result scale * residual is d loss / d x_hat of both losses, and `dots` are of these residuals; squared errors stay
    those of the reconstruction. rows [entries]: the row of each. Without a control.pull nothing changes.
    """
    if step.control.pull is None:
        return decoded
    # Every group's residual is summed over the prefixes from that group on, the last of which is the whole reconstruction.
    extra = step.control.pull(decoded.residuals[:, -1]) / scale
    parts = zip(rows.split(ENTRIES_AT_ONCE), entries.columns.split(ENTRIES_AT_ONCE), strict=True)
    decoder = step.weights["W_dec"]
    products = [
        torch.linalg.vecdot(extra.index_select(0, row), decoder.index_select(0, column)) for row, column in parts
    ]
    dots = decoded.dots + torch.cat(products) if products else decoded.dots
    return replace(decoded, residuals=decoded.residuals + extra[:, None], dots=dots)
