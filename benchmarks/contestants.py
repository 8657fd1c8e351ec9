"""Trainers of the quality table: ours, and other libraries' own steps with the recipes their papers and pages give.

A contestant is trained for one epoch on the rows of a store, raw activations, in the store's order, and saved as one of
our checkpoints, so that all are measured by the same code. `settings` are tried on the first seed; the best goes on.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.agreement import gap
from benchmarks.real import Real
from benchmarks.stubs import put_in_place
from sae_atlas.activations.store import open_store
from sae_atlas.config.read import complete_recipe
from sae_atlas.kernels.threads import use_threads
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.matryoshka import ends
from sae_atlas.saes.sae import Sae

LAYERS = (14, 3, 10, 22, 29)  # settings are chosen on the first, and reported on the others: early, middle, late, last
L0 = 32
SLACK = 1.2  # a setting whose held-out L0 is above this times the asked one is not chosen: it would win by it
ALIKE = 0.003  # of the cross-entropy recovered: seeds differ by as much
DEAD_AFTER = 10_000  # tokens without firing: where revival of dead latents starts unless a setting says otherwise
WARMUP = 20  # steps
OF_BATCH = ("batch_topk", "matryoshka")  # the largest of a batch are active
MATRYOSHKA = {"architecture": "matryoshka", "k": L0, "expansion": 8}
SAME = 1e-4  # relative difference of a token's reconstructions that float32 may leave
TIE = 1e-5  # of a token's largest pre-activation: others as close to what decides of them may go either way


@dataclass(frozen=True)
class Contestant:
    """train(real, store, architecture, setting, seed, checkpoint) writes a checkpoint and returns the tokens per second."""

    library: str
    architecture: str
    settings: tuple[dict, ...]
    train: Callable

    @property
    def name(self) -> str:
        return f"{self.library} {self.architecture}"


def by_trainer(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Rows of trained SAEs by tokens, library and architecture."""
    found = {}
    for row in rows:
        found.setdefault((row["tokens"], row["library"], row["architecture"]), []).append(row)
    return found


def ours(real: Real, store: Path, architecture: str, setting: dict, seed: int, checkpoint: Path) -> float:
    recipe = {"architecture": architecture, "expansion": 8, "seed": seed, "warmup": WARMUP, "dead_after": DEAD_AFTER}
    recipe |= {
        "relu": {"l1": {"coefficient": 0.03, "target_l0": L0}, "sparsity_warmup": WARMUP},
        "jumprelu": {"jumprelu": {"target_l0": L0, "bandwidth": 0.01, "threshold": 0.01}, "sparsity_warmup": 50},
    }.get(architecture, {"k": L0}) | setting
    began = time.perf_counter()
    real.train(recipe, store, checkpoint)
    return real.tokens / (time.perf_counter() - began)


def sae_lens(real: Real, store: Path, architecture: str, setting: dict, seed: int, checkpoint: Path) -> float:
    """SAETrainer.fit with `expected_average_only_in`, Adam with warm-up and the last fifth decayed."""
    put_in_place()
    import sae_lens as library
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    setting = dict(setting)
    batch, rate, dead_after = setting.pop("batch"), setting.pop("learning_rate"), setting.pop("dead_after", DEAD_AFTER)
    rows = _Rows(store, batch)
    kinds = {"relu": "Standard", "topk": "TopK", "batch_topk": "BatchTopK", "jumprelu": "JumpReLU"}
    kinds["matryoshka"] = "MatryoshkaBatchTopK"
    d_sae, batch_topk = (
        8 * rows.d_in,
        {"k": L0, "topk_threshold_lr": 0.05},
    )  # its 0.01 is for more than some hundred steps
    keys = {
        "relu": {"l1_warm_up_steps": WARMUP},
        "batch_topk": batch_topk,
        "matryoshka": batch_topk | {"matryoshka_widths": ends(complete_recipe(MATRYOSHKA)["groups"], d_sae)},  # as ours
        "jumprelu": {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": L0, "l0_warm_up_steps": WARMUP},
    }.get(architecture, {"k": L0}) | setting
    config = getattr(library, f"{kinds[architecture]}TrainingSAEConfig")(
        d_in=rows.d_in, d_sae=d_sae, normalize_activations="expected_average_only_in", **keys
    )
    torch.manual_seed(seed)
    sae = getattr(library, f"{kinds[architecture]}TrainingSAE")(config)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=rows.steps * batch,
            train_batch_size_samples=batch,
            lr=rate,
            lr_end=rate / 10,  # as its runner chooses
            lr_warm_up_steps=WARMUP,
            lr_decay_steps=rows.steps // 5,
            dead_feature_window=dead_after // batch,
        ),
        sae,
        data_provider=iter(rows),
    )
    trainer.activation_scaler.estimate_scaling_factor(rows.d_in, iter(rows), rows.steps)
    scale = trainer.activation_scaler.scaling_factor
    seconds = _timed(trainer.fit)
    with torch.no_grad():
        norms = sae.W_dec.norm(dim=1)
        state = {"W_enc": (sae.W_enc * norms).T, "b_enc": sae.b_enc * norms, "W_dec": sae.W_dec / norms[:, None]}
        state["b_dec"], threshold = sae.b_dec, None
        if architecture == "jumprelu":
            threshold = sae.threshold.clamp(min=0) * norms
        elif architecture in OF_BATCH:
            # It was learnt with decoder norms in the loop; `fit` has since divided the decoder, not it, by the scale.
            threshold = (sae.topk_threshold.float() / scale).expand(len(norms))
    _save(checkpoint, architecture, state, threshold, rows)
    if architecture not in OF_BATCH:  # whose own output depends on the batch
        _check(sae.eval(), checkpoint, rows)
    return rows.steps * batch / seconds


def sparsify(real: Real, store: Path, architecture: str, setting: dict, seed: int, checkpoint: Path) -> float:
    """The body of Trainer.fit around SparseCoder: b_dec is the first batch's mean, linear decay from the warm-up on.

    On pairs a transcoder, with a skip connection if the setting says `skip`. Its Adam, or its default: sign descent,
    schedule-free, 5e-3 / sqrt(d_sae / 2^14).
    """
    put_in_place()
    from schedulefree import ScheduleFreeWrapper
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD
    from transformers import get_linear_schedule_with_warmup

    rows = _Rows(store, setting["batch"])
    torch.manual_seed(seed)
    of_pairs = {"transcode": rows.store.target is not None, "skip_connection": setting.get("skip", False)}
    coder = SparseCoder(rows.d_in, SparseCoderConfig(num_latents=8 * rows.d_in, k=L0, **of_pairs))
    signum = setting["learning_rate"] == "default"
    if signum:
        rate = 5e-3 / math.sqrt(coder.num_latents / 2**14)
        optimizer = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=rate), momentum=0.95)
        optimizer.train()
    else:
        optimizer = torch.optim.Adam(coder.parameters(), lr=setting["learning_rate"])
        schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, rows.steps)
    silent, dead_after = torch.zeros(coder.num_latents, dtype=torch.long), setting.get("dead_after", DEAD_AFTER)

    def fit() -> None:
        for number, row in zip(range(rows.steps), rows, strict=False):
            x, y = row[:, : rows.d_in], row[:, -rows.d_in :]
            if number == 0:
                coder.b_dec.data = y.mean(0)
            if not coder.cfg.transcode:
                coder.set_decoder_norm_to_unit_norm()
            variance = (y - y.mean(0)).pow(2).sum()
            out = coder(x=x, y=y, dead_mask=silent > dead_after, total_variance=variance)
            (out.fvu + out.auxk_loss / 32).backward()
            if not coder.cfg.transcode:
                coder.remove_gradient_parallel_to_decoder_directions()
            optimizer.step()
            optimizer.zero_grad()
            if not signum:
                schedule.step()
            fired = torch.zeros_like(silent, dtype=torch.bool)
            fired[out.latent_indices.flatten()] = True
            silent.add_(len(x))
            silent[fired] = 0

    seconds = _timed(fit)
    if signum:
        optimizer.eval()
    state = {"W_enc": coder.encoder.weight, "b_enc": coder.encoder.bias, "W_dec": coder.W_dec, "b_dec": coder.b_dec}
    if coder.W_skip is not None:
        state["W_skip"] = coder.W_skip
    _save(checkpoint, architecture, state, None, rows)
    _check(lambda x: coder(x).sae_out, checkpoint, rows)
    return rows.steps * setting["batch"] / seconds


def contestants(batch: int = 512) -> list[Contestant]:
    rates = [{"batch": batch, "learning_rate": rate} for rate in (1e-3, 2e-3, 3e-3)]
    signum = {"batch": batch, "learning_rate": "default"}
    higher = [{"batch": batch, "learning_rate": rate} for rate in (4e-3, 5e-3)]
    falling = [rate | {"decay": 1.0} for rate in (*rates[1:], *higher)]  # as sparsify's
    soon = {"dead_after": 2_500}
    revived = [falling[1] | soon, *(rate | soon | {"auxk": {"coefficient": 0.1}} for rate in falling[1:])]
    # The default's, and with more revival.
    last_window = rates[2] | {"decay": 0.333}
    revived += [last_window | {"dead_after": 5_000}, last_window | soon | {"auxk": {"coefficient": 0.1}}]
    # In units where E||x||^2 is 1 a norm of 1 clips nothing after the first steps; in sae_lens', d_in, it always does.
    clipped = [rate | {"clip": 0.1} for rate in rates[1:]]
    clipped += [clipped[1] | {"decay": 1.0}]
    # 120,000 tokens are too few steps to steer lambda there from 0.03.
    clipped += [clipped[1] | {"l1": {"coefficient": 0.1, "target_l0": L0}}]
    clipped += [clipped[1] | {"decay": 0.4, "l1": {"coefficient": 0.05, "target_l0": L0}}]
    l1 = [rates[1] | {"l1_coefficient": weight} for weight in (3.0, 4.0, 5.0, 8.0, 12.0)]
    # Its own thresholds start at 0.01 where E||x||^2 is d_in and move by a learning rate a step: too low for a short run.
    raised = {"jumprelu_init_threshold": 1.0, "jumprelu_bandwidth": 1.0}
    jump = [rates[1] | {"l0_coefficient": 1.0}]
    jump += [rates[1] | raised | {"l0_coefficient": 1.0}]
    return [
        Contestant("sae_atlas", "topk", (*rates, *falling, *revived), ours),
        Contestant("sae_atlas", "batch_topk", (*rates[1:], *falling, *revived), ours),
        Contestant("sae_atlas", "jumprelu", tuple(rates), ours),
        Contestant("sae_atlas", "relu", (*rates, *clipped), ours),
        Contestant("sparsify", "topk", (signum, *rates, *higher, rates[2] | soon), sparsify),
        Contestant("sae_lens", "topk", (*rates[1:], rates[1] | soon), sae_lens),
        Contestant("sae_lens", "batch_topk", (*rates[1:], rates[1] | soon), sae_lens),
        Contestant("sae_lens", "jumprelu", tuple(jump), sae_lens),
        Contestant("sae_lens", "relu", tuple(l1), sae_lens),
    ]


class _Rows:
    """The store's batches as tensors, without end."""

    def __init__(self, store: Path, batch: int):
        self.store, self.batch = open_store(store), batch
        self.d_in, self.steps = self.store.d_in, self.store.rows // batch

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            for rows in self.store.batches(self.batch):
                yield torch.from_numpy(rows)


def _timed(train: Callable) -> float:
    """Seconds, with two threads."""
    use_threads(2)
    torch.set_num_threads(2)
    began = time.perf_counter()
    train()
    return time.perf_counter() - began


def _save(path: Path, architecture: str, state: dict, threshold, rows: _Rows) -> None:
    weights = {name: weight.detach() for name, weight in state.items()}
    config = {
        "recipe": {"architecture": architecture, "k": L0},
        "d_in": rows.d_in,
        "d_sae": len(weights["W_dec"]),
        "tokens": rows.steps * rows.batch,
        "normaliser": {"scale": 1.0},
    }
    plain = torch.zeros(rows.d_in), 1.0
    if rows.store.target is None:
        folded = checkpoints.fold(weights, threshold, *plain)
    else:
        config["d_out"] = weights["W_dec"].shape[1]
        folded = checkpoints.fold_transcoder(weights, threshold, plain, plain)
    checkpoints.save(path, folded, config, {})


@torch.no_grad()
def _check(own: Callable, path: Path, rows: _Rows) -> None:
    """Raises if the checkpoint that was read from a peer does not reconstruct as the peer itself does."""
    x, sae = next(iter(rows))[:, : rows.d_in], Sae.load(path)
    one, other = (each[_decided(sae, x)] for each in (own(x), sae(x)))
    difference = float(((one - other).norm(dim=1) / one.norm(dim=1)).max())
    if len(one) < len(x) / 2 or difference > SAME:
        raise RuntimeError(
            f"{path}: reads the peer's weights wrongly, relative difference up to {difference:.1e} in {len(one)} tokens"
        )


def _decided(sae: Sae, x: torch.Tensor) -> torch.Tensor:
    """[tokens] bool: the active latents do not hang on how float32 rounds a sum."""
    z = sae.pre_activations(x)
    deciding = gap(z, L0) if sae.architecture == "topk" else gap(z, threshold=sae.threshold)
    return deciding > TIE * z.abs().amax(dim=1)
