"""What is measured of an SAE of the embedded model, once more by SAELens and SAEBench on the same tokens, without our code.

Equal where the definitions are; where they are not, the difference is named and is the whole of it.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import Dataset
from embedded_sae import BATCH, LAYER
from hooked import read_folders
from sae_bench_runs import run_saebench
from torch import Tensor

from benchmarks.stubs import put_in_place
from sae_atlas.base_models.load import load
from sae_atlas.io.files import read_json
from sae_atlas.metrics.held_out import open_held_out
from sae_atlas.saes.sae import Sae
from sae_atlas.sites.hooks import patch

put_in_place()  # of packages that the peers import and none of this needs
read_folders()

TOLERANCE = {"abs": 1e-3, "rel": 1e-4}  # float32 sums in another order; large values such as norms by their size


@dataclass
class Measured:
    """Metrics by name, as the three say; and what they are of: tokens, mask [contexts, context], x, x_hat [.., d_in]."""

    ours: dict
    saelens: dict
    saebench: dict
    model: torch.nn.Module
    tokens: Tensor
    mask: Tensor
    x: Tensor
    x_hat: Tensor


@pytest.fixture(scope="module")
def measured(trained, tmp_path_factory) -> Measured:
    folder = tmp_path_factory.mktemp("measured")
    ours = {row["metric"]: row["value"] for row in read_json(trained.folder / "metrics.json")["metrics"]}
    held_out = open_held_out(trained.held_out)
    tokens, mask, x = (torch.from_numpy(held_out.rows(name)[:]) for name in ("tokens", "mask", f"layer{LAYER}/site"))
    by_saelens = of_saelens(trained.exported, trained.model, tokens)
    (folder / "tokens").mkdir()
    pd.DataFrame({"tokens": list(tokens.numpy())}).to_parquet(folder / "tokens/train.parquet")
    contexts, context = tokens.shape
    sizes = {"context": context, "contexts": contexts, "contexts_per_batch": BATCH}
    by_saebench = run_saebench(folder, "core", sae=str(trained.exported), tokens=str(folder / "tokens"), **sizes)
    model, x_hat = load(trained.provenance, "float32", "cpu")[0], Sae.load(trained.checkpoint)(x)
    return Measured(ours, flat(by_saelens), flat(by_saebench["eval_result_metrics"]), model, tokens, mask, x, x_hat)


def of_saelens(folder: Path, model_folder: Path, tokens: Tensor) -> dict:
    from sae_lens import SAE
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler
    from sae_lens.training.activations_store import ActivationsStore
    from transformer_lens import HookedTransformer

    theirs, model = SAE.load_from_disk(folder), HookedTransformer.from_pretrained_no_processing(str(model_folder))
    contexts, context = tokens.shape
    dataset = Dataset.from_dict({"tokens": tokens.tolist()})
    store = ActivationsStore.from_sae(model, theirs, dataset, context_size=context, streaming=False)
    return run_evals(
        theirs,
        store,
        model,
        ActivationScaler(),
        get_eval_everything_config(BATCH, contexts // BATCH, contexts // BATCH),
    )[0]


def flat(categories: dict) -> dict:
    return {name: value for category in categories.values() for name, value in category.items()}


def both(measured: Measured, name: str) -> list:
    return [measured.saelens[name], measured.saebench[name]]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ce_clean", "ce_loss_without_sae"),
        ("ce_sae", "ce_loss_with_sae"),
        ("l0", "l0"),
        ("cosine", "cossim"),
        ("norm_ratio", "l2_ratio"),
    ],
)
def test_the_same_definition_gives_the_same_number(measured, ours, theirs):
    assert both(measured, theirs) == pytest.approx([measured.ours[ours]] * 2, **TOLERANCE)


def test_explained_variance_is_saelens_and_not_saebench_s(measured):
    """SAEBench takes from the mean squared norm S, in place of the mean's squared norm, (S / d)^2."""
    assert measured.saelens["explained_variance"] == pytest.approx(1 - measured.ours["fvu"], **TOLERANCE)
    assert measured.saelens["mse"] == pytest.approx(measured.ours["mse"], **TOLERANCE)
    x = measured.x[measured.mask].double()
    square = float(x.square().sum(dim=1).mean())
    assert measured.saebench["explained_variance"] == pytest.approx(
        1 - measured.ours["mse"] / (square - (square / x.shape[1]) ** 2), **TOLERANCE
    )
    assert abs(measured.saebench["explained_variance"] - measured.saelens["explained_variance"]) > 0.05


def test_means_of_batches_and_of_tokens(measured):
    """The explained variance of older versions is a mean over tokens about the batch's mean; the relative bias, a mean over
    batches; SAEBench's mean squared error is divided by the batch's tokens twice.
    """
    legacy, bias, errors = [], [], []
    for batch in torch.arange(len(measured.mask)).split(BATCH):
        mask = measured.mask[batch]
        x, x_hat = measured.x[batch][mask].double(), measured.x_hat[batch][mask].double()
        error = (x - x_hat).square().sum(dim=1)
        legacy.append(1 - error / (x - x.mean(dim=0)).square().sum(dim=1))
        bias.append(x_hat.square().sum() / (x * x_hat).sum())
        errors.append(error / len(x))
    assert both(measured, "explained_variance_legacy") == pytest.approx(
        [float(torch.cat(legacy).mean())] * 2, **TOLERANCE
    )
    assert both(measured, "relative_reconstruction_bias") == pytest.approx(
        [float(sum(bias) / len(bias))] * 2, **TOLERANCE
    )
    assert measured.saebench["mse"] == pytest.approx(float(torch.cat(errors).mean()), **TOLERANCE)


def passes(measured: Measured, value: Tensor) -> tuple[float, float]:
    """Mean CE and KL of the model that reads `value` at the site, over unmasked positions, as both others take them: KL also
    of a context's last position, whose next token is not in the text.
    """
    with torch.no_grad():
        clean = torch.log_softmax(measured.model(measured.tokens).logits, dim=-1)
        with patch(measured.model, "resid_post", LAYER, lambda _: value):
            patched = torch.log_softmax(measured.model(measured.tokens).logits, dim=-1)
    kl = (clean.exp() * (clean - patched)).sum(dim=-1)[measured.mask]
    ce = -patched[:, :-1].gather(2, measured.tokens[:, 1:, None].long())[..., 0][measured.mask[:, :-1]]
    return float(ce.mean()), float(kl.mean())


def test_theirs_ablate_document_starts_too(measured):
    """In our ablated passes masked positions keep their activation, as in the passes through the SAE; in theirs they are zero.

    Position 0, which all others attend to, is one of them, and without it the model is another.
    """
    ours = measured.ours
    replaced = torch.where(measured.mask[..., None], measured.x_hat, measured.x)
    ce_sae, kl_sae = passes(measured, replaced)
    ce_zero, kl_zero = passes(measured, torch.zeros_like(measured.x))
    assert ce_sae == pytest.approx(ours["ce_sae"], **TOLERANCE)
    assert both(measured, "kl_div_with_sae") == pytest.approx([kl_sae] * 2, **TOLERANCE)
    assert both(measured, "ce_loss_with_ablation") == pytest.approx([ce_zero] * 2, **TOLERANCE)
    assert both(measured, "kl_div_with_ablation") == pytest.approx([kl_zero] * 2, **TOLERANCE)
    recovered = (ce_zero - ours["ce_sae"]) / (ce_zero - ours["ce_clean"])
    assert both(measured, "ce_loss_score") == pytest.approx([recovered] * 2, **TOLERANCE)
    assert both(measured, "kl_div_score") == pytest.approx([1 - kl_sae / kl_zero] * 2, **TOLERANCE)
    starts_kept, _ = passes(measured, torch.where(measured.mask[..., None], 0, measured.x))
    assert starts_kept == pytest.approx(ours["ce_zero"], **TOLERANCE)
    assert abs(starts_kept - ce_zero) > 0.5


def test_what_is_masked_is_what_they_call_special(measured):
    """The text holds no other special token than the document start, which all three leave out."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(measured.model.config.name_or_path)
    special = torch.isin(measured.tokens, torch.tensor(tokenizer.all_special_ids))
    assert torch.equal(special, ~measured.mask) and special.any()
