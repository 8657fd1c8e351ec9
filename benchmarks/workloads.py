"""The works that are timed: sizes, starting weights in the sparse regime, and the batch, the same for everyone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.agreement import gap
from sae_atlas.kernels.measured import Weights
from sae_atlas.saes.parts import initial_weights

LEARNING_RATE = 1e-5  # small, so that L0 stays what it is while a step is repeated
PENALTY = 0.01  # lambda of the L1 works, on E||x||^2 = 1 and the sum over latents
ACTIVE = 8  # decoder directions a token is made of
TIE = 1e-6  # pre-activations that are closer may change places


@dataclass(frozen=True)
class Work:
    """One row of the table. `l0` is k for TopK and the mean number of active latents for L1.

    pairs: a transcoder, whose target is as wide as its input; skip: with a skip connection.
    """

    kind: str  # topk | l1
    d_in: int
    d_sae: int
    l0: int
    batch: int = 4096
    pairs: bool = False
    skip: bool = False

    @property
    def name(self) -> str:
        number = f"k {self.l0}" if self.kind == "topk" else f"L0 {self.l0}"
        kind = f"{'TopK' if self.kind == 'topk' else 'L1'}{' transcoder' * self.pairs}{' with skip' * self.skip}"
        return f"{kind} d {self.d_in}, M {self.d_sae:,}, {number}"

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Input [batch, d_in], and the target of a transcoder."""
        return (rows[:, : self.d_in].contiguous(), rows[:, self.d_in :].contiguous()) if self.pairs else (rows, None)


WORKS = (
    Work("topk", 576, 4608, 32),
    Work("topk", 512, 16384, 64),
    Work("l1", 512, 16384, 64),
    Work("l1", 576, 4608, 32),
    Work("topk", 576, 4608, 32, pairs=True),
    Work("topk", 576, 4608, 32, pairs=True, skip=True),
)
TOY = (Work("topk", 16, 64, 4, 300), Work("l1", 16, 64, 4, 300), Work("topk", 16, 64, 4, 300, pairs=True, skip=True))


def start(work: Work, device: torch.device | str = "cpu") -> tuple[Weights, Tensor]:
    """Weights and batch [batch, d_in] with E||x||^2 = 1: tokens are sums of decoder directions, and noise; of a transcoder
    such input and target side by side, [batch, 2 d_in].

    For L1 one encoder bias, the same for all latents, is put where `l0` pre-activations per token are positive.
    """
    generator = torch.Generator().manual_seed(0)
    b_dec = torch.randn(work.d_in, generator=generator) / 1e3
    weights = initial_weights(work.d_in, work.d_sae, b_dec, seed=0, transcoder=work.pairs)
    if work.skip:
        weights["W_skip"] = torch.randn(work.d_in, work.d_in, generator=generator) / 1e3
    active = torch.randint(work.d_sae, (work.batch, ACTIVE), generator=generator)
    noise = 0.5 * torch.randn(work.batch, work.d_in, generator=generator) / work.d_in**0.5
    parts = [weights[name][active].sum(1) + noise for name in (("W_enc", "W_dec") if work.pairs else ("W_dec",))]
    x = torch.cat([part / part.square().sum(1).mean().sqrt() for part in parts], dim=1)
    if work.kind == "l1":
        z = (x - weights["b_dec"]) @ weights["W_enc"].T
        weights["b_enc"] -= z.flatten().kthvalue(z.numel() - work.batch * work.l0).values
    return {name: weight.to(device) for name, weight in weights.items()}, x.to(device)


def decided(work: Work, weights: Weights, x: Tensor) -> Tensor:
    """[batch] bool: the tokens whose active latents do not hang on how float32 rounds a sum."""
    x, target = work.split(x)
    z = (x - weights["b_dec"] if target is None else x) @ weights["W_enc"].T + weights["b_enc"]
    return gap(z, work.l0 if work.kind == "topk" else None) > TIE
