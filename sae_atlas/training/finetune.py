"""Fine-tune an SAE on the loss itself: the last tokens minimise the KL of the model that reads the reconstruction as well.

Karvonen, "Revisiting end-to-end sparse autoencoder training: a short finetune is all you need" (arXiv 2503.17272). The loss of
a step is that of the recipe + w KL: KL(clean || patched), mean over the predictions at tokens that are rebuilt. w, a constant
in the gradient, makes the gradients of w KL and of the squared error with respect to the reconstruction equally long in every
step. Masked positions and outliers keep their own activations and have no loss.

The paper's w = squared error / KL makes the terms equally large. On SmolLM2-135M, layer 14, the gradient of w KL is then 11 to
14 times as long as the other, beyond what Adam's averages know and what clipping lets through: the KL rose.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sae_atlas.activations.outliers import median_norm
from sae_atlas.activations.save import largest_value
from sae_atlas.base_models.load import load
from sae_atlas.corpus import Corpus, open_corpus
from sae_atlas.io.devices import name_of
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import logger
from sae_atlas.kernels.threads import free_buffers
from sae_atlas.metrics.held_out import patched_site, predictions, replace_site
from sae_atlas.metrics.losses import losses
from sae_atlas.sites.hooks import blocks, capture, capture_sites, check_site
from sae_atlas.sites.trace import forward_pass
from sae_atlas.training.interruption import Interruption
from sae_atlas.training.learner import read_contexts
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.result import save_sae
from sae_atlas.training.state import State, load_state
from sae_atlas.training.window import Source, Window

SMALLEST = 1e-20  # length of a gradient: w KL has none where the KL has none


def finetune(
    base_model: str | Path,
    corpus: str | Path,
    previous: str | Path,
    recipe: dict,
    layer: int,
    site: str,
    start: int,
    stop: int,
    total: int | None,
    model_dtype: str,
    contexts_per_batch: int,
    outlier_norm: float,
    checkpoint: str | Path,
    curve: str | Path,
    target: str | None = None,
    threads: int = 1,
    watch: Callable[[dict], None] | None = None,
    device: str = "auto",
    gpu_products: str = "bfloat16",
) -> None:
    """Carry the SAE of `previous` (a resume file) over the train tokens [start, stop) of the corpus, read by the base model.

    A step reads whole contexts, as many as hold the recipe's batch; the model runs `contexts_per_batch` of them at once, on one
    thread of a CPU, so any number of threads gives the same bits. site, target: as for save_activations. outlier_norm: of
    which an outlier has more, in median norms of a step's tokens. Other arguments, and interruptions: as for train.train.

    Raises AtlasError for damaged or wrong inputs, and for a loss or gradient that is not finite.
    """
    chosen = Recipe.from_dict(recipe)
    model, origin = load(base_model, model_dtype, device)
    sites = {"site": site, "target": target} if target else {"site": site}
    for each in sites.values():
        check_site(model, each, [layer], origin)
    if getattr(model.config, "predicts", "next") == "itself":
        raise AtlasError(
            f"recipe.finetune: {type(model).__name__} predicts the tokens that it reads, not the next; remove it"
        )
    state = load_state(previous, chosen).to(model.device)
    text = open_corpus(corpus)
    contexts = max(1, round(chosen.batch / text.context))
    passes = _Passes(model, sites, layer, contexts_per_batch, outlier_norm)
    source = PassSource(passes, text, text.window(start, stop), contexts)
    window = Window(chosen, source, state, start, stop, total, threads, watch, gpu_products)
    logger.info(
        "%s, %d latents, %d steps of %d contexts, %s, %d thread(s)",
        chosen.architecture, len(state.since_fired), source.steps, contexts, name_of(state.mean.device), threads,
    )  # fmt: skip
    with Interruption(checkpoint) as interruption:
        window.go_on_from(interruption.saved)
        window.run(interruption)
        free_buffers()
        window.curve.write(curve)
        about = {key: origin.get(key) for key in ("source", "revision", "weights_sha256")}
        save_sae(checkpoint, recipe, window, {"base_model": about, "layer": layer, **sites})


class PassSource(Source):
    """Contexts of the corpus in its order, as many a step; the last steps share what is left."""

    kind = "base model"
    runs_ahead = False
    columns = ("kl", "kl_weight")  # nats per prediction; w

    def __init__(self, passes: "_Passes", text: Corpus, window: range, contexts: int):
        self.passes, self.text, self.path = passes, text, text.tokens.path
        self.steps = max(1, round(len(window) / contexts))
        self.cuts = [window.start + len(window) * step // self.steps for step in range(self.steps + 1)]

    def batches(self, done: int) -> "_Rows":
        return _Rows(self, done)

    def pull(self, state: State) -> Callable[[Tensor], Tensor]:
        scale = state.scale if state.target_scale is None else state.target_scale
        return partial(self.passes.pull, scale=scale)

    def measured(self) -> tuple[Tensor, Tensor]:
        return self.passes.kl, self.passes.weight


class _Rows(Iterator[Tensor]):
    """Rows that are rebuilt, [tokens, d_in (+ d_out)], step by step."""

    def __init__(self, source: PassSource, done: int):
        self.source, self.steps = source, iter(range(done, source.steps))
        self.before = source.passes.seconds

    @property
    def waited(self) -> float:
        return self.source.passes.seconds - self.before

    def __next__(self) -> Tensor:
        step, source = next(self.steps), self.source
        contexts = slice(*source.cuts[step : step + 2])
        return source.passes.clean(*read_contexts(source.text, contexts, source.passes.model.device))


@dataclass(frozen=True)
class _Clean:
    """The model's own pass over some contexts, on its device."""

    tokens: Tensor  # [contexts, context]
    x: Tensor  # [contexts, context, d_in] at the site
    y: Tensor  # [contexts, context, d_out] at the site that is rebuilt
    stream: Tensor  # what the first block that is run again reads, or y
    final: Tensor  # [contexts, context, d_model], the stream after the last block


class _Passes:
    """Of a base model, a step's contexts at a time: the clean pass, then the patched one with its gradient."""

    def __init__(self, model, sites: dict[str, str], layer: int, contexts_per_batch: int, outlier_norm: float):
        """sites: `site`, and `target` of a transcoder."""
        self.model, self.sites, self.layer = model, sites, layer
        self.patched, self.last = patched_site(sites), len(blocks(model)) - 1
        self.contexts_per_batch, self.outlier_norm = contexts_per_batch, outlier_norm
        self.seconds = 0.0

    def clean(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Raw rows at the tokens that are rebuilt, float32 [tokens, d_in (+ d_out)]. tokens, mask [contexts, context]."""
        began = time.perf_counter()
        with torch.no_grad():
            self.parts = [self._clean(part) for part in tokens.split(self.contexts_per_batch)]
        x, y = (torch.cat([getattr(part, name) for part in self.parts]).float() for name in ("x", "y"))
        self.inside = mask.clone()
        for values in (x, y):
            norms = values.norm(dim=-1)
            self.inside &= norms <= self.outlier_norm * median_norm(norms[mask])
        if not self.inside[:, :-1].any():
            raise AtlasError(
                "corpus: contexts without a token that counts; lower corpus.exclude or raise corpus.context"
            )
        rows = (x if "target" not in self.sites else torch.cat([x, y], dim=-1))[self.inside]
        self.seconds += time.perf_counter() - began
        return rows

    def pull(self, error: Tensor, scale: float) -> Tensor:
        """d (w KL) / d x_hat [tokens, d_out] in scaled space, of x_hat - x in it."""
        began = time.perf_counter()
        insides = self.inside.split(self.contexts_per_batch)
        errors = error.detach().split([int(inside.sum()) for inside in insides])
        of_parts = [
            self._divergence(*each) for each in zip(self.parts, insides, (each / scale for each in errors), strict=True)
        ]
        count = self.inside[:, :-1].sum()
        self.kl = sum(divergence for divergence, _ in of_parts) / count
        gradient = torch.cat([gradient for _, gradient in of_parts]) / (count * scale)
        self.weight = 2 / len(error) * error.norm() / gradient.norm().clamp(min=SMALLEST)
        self.seconds += time.perf_counter() - began
        return gradient * self.weight

    def _clean(self, tokens: Tensor) -> _Clean:
        read = {"x": self.sites["site"], "y": self.patched}
        if self.patched not in ("resid_pre", "resid_post"):
            read["stream"] = "resid_pre"
        with (
            capture_sites(self.model, list(read.values()), [self.layer], stop=False) as captured,
            capture(self.model, "resid_post", [self.last], stop=False) as final,
        ):
            forward_pass(self.model, tokens, last_only=True)
        values = {name: captured[site][self.layer] for name, site in read.items()}
        for each in values.values():
            largest_value(each, self.layer)
        return _Clean(tokens, **{"stream": values["y"], **values}, final=final[self.last])

    def _divergence(self, part: _Clean, inside: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        """KL summed over the predictions that count, and its gradient with respect to the reconstruction [tokens, d_out].

        inside [contexts, context]: the tokens that are rebuilt; error: x_hat - x at them. A sum, for the gradient of a mean may
        be too small for float16.
        """
        rebuilt = (part.y[inside].to(error.dtype) + error).requires_grad_()
        with torch.no_grad():
            clean = predictions(self.model, part.final, part.tokens)
        replaced = part.y.index_put((inside,), rebuilt.to(part.y.dtype))
        with replace_site(self.model, self.patched, self.layer, part.stream, replaced):
            logits = forward_pass(self.model, part.tokens).logits
        divergence = losses(logits, part.tokens, clean)[1][inside[:, :-1]].sum()
        return divergence.detach(), torch.autograd.grad(divergence, rebuilt)[0]
