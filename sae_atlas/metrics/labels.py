"""Every metric in one line: how it is called where people read it, which direction is better, its unit, and its function.

Without torch: figures, cards and pages read it.
"""

from collections.abc import Callable
from typing import NamedTuple

from sae_atlas.metrics import importance, loss_recovered, reconstruction, sparsity
from sae_atlas.metrics.loss_recovered import mean_loss


class Metric(NamedTuple):
    name: str
    better: str | None = None  # up, down, one (best at 1); None: neither direction is better
    unit: str = ""  # empty: a ratio
    of: Callable[[dict], float] | None = (
        None  # of sums over tokens, numbers or arrays of resamples; None: see metrics.sums
    )

    @property
    def arrow(self) -> str:
        return {"up": "↑", "down": "↓", "one": "→ 1", None: ""}[self.better]


NATS, SQUARED, PER_TOKEN, LATENTS = "nats per token", "squared activation", "latents per token", "latents"

# Of sums over all unmasked held-out tokens. They have bootstrap intervals, as those of the next table.
OF_TOKENS = {
    "fvu": Metric("FVU", "down", "", reconstruction.fvu),
    "fvu_without_outliers": Metric("FVU without outlier tokens", "down", "", reconstruction.fvu_without_outliers),
    "explained_variance": Metric("explained variance", "up", "", reconstruction.explained_variance),
    "explained_variance_without_outliers": Metric(
        "explained variance without outlier tokens", "up", "", reconstruction.explained_variance_without_outliers
    ),
    "mse": Metric("MSE", "down", SQUARED, reconstruction.mse),
    "cosine": Metric("cosine", "up", "", reconstruction.cosine),
    "norm_ratio": Metric("norm ratio", "one", "", reconstruction.norm_ratio),
    "relative_bias": Metric("relative bias", "one", "", reconstruction.relative_bias),
    "l0": Metric("L0", None, PER_TOKEN, sparsity.mean_l0),
    "l0_std": Metric("L0, standard deviation over tokens", None, PER_TOKEN, sparsity.l0_deviation),
    "activation_rate": Metric("activation rate = L0 / latents", None, "", sparsity.activation_rate),
    "importance": Metric("importance, total", None, SQUARED, importance.total),
}
# Of sums over predictions at unmasked positions of the contexts that have patched passes.
OF_PREDICTIONS = {
    "ce_clean": Metric("CE, clean", "down", NATS, mean_loss("ce_clean")),
    "ce_zero": Metric("CE, zero ablation", None, NATS, mean_loss("ce_zero")),
    "ce_mean": Metric("CE, mean ablation", None, NATS, mean_loss("ce_mean")),
    "ce_sae": Metric("CE, through the SAE", "down", NATS, mean_loss("ce_sae")),
    "ce_increase": Metric("CE increase", "down", NATS, loss_recovered.ce_increase),
    "ce_recovered": Metric("CE recovered, zero ablation", "up", "", loss_recovered.ce_recovered),
    "ce_recovered_mean_ablation": Metric(
        "CE recovered, mean ablation", "up", "", loss_recovered.ce_recovered_mean_ablation
    ),
    "kl": Metric("KL from the clean model", "down", NATS, mean_loss("kl_sae")),
    "kl_zero": Metric("KL from the clean model, zero ablation", None, NATS, mean_loss("kl_zero")),
    "kl_recovered": Metric("KL recovered", "up", "", loss_recovered.kl_recovered),
}
# Of the whole set of tokens, or of the weights (metrics.sums.Sums.plain): without an interval.
OF_THE_WHOLE = {
    "l0_median": Metric("L0, median of tokens", None, PER_TOKEN),
    "dead": Metric("dead latents", "down", LATENTS),
    "alive": Metric("alive latents", "up", LATENTS),
    "dead_share": Metric("dead share of the latents", "down"),
    "participation_ratio": Metric("participation ratio", None, LATENTS),
    "rank_99": Metric("hold 99% of the importance", None, LATENTS),
    "alpha": Metric("alpha = 1 - L0 / alive"),
    "g": Metric("g(alpha)", None, "latents per dimension"),
    "d_star": Metric("d* = alive / g(alpha)", None, "dimensions"),
    "alignment": Metric("encoder-decoder cosine"),
    "nearest": Metric("nearest other decoder, cosine", "down"),
    "settled": Metric("settled: within cosine 0.9 of the final snapshot's", "up"),
}
OF_EVALUATION = OF_TOKENS | OF_PREDICTIONS | OF_THE_WHOLE
# Of documents and words (room tasks), where evaluation.tasks asks for them; docs/measurement.md says what each means. What SAEs
# are held against has no direction.
OF_TASKS = {
    "probing_1": Metric("topic from 1 latent", "up"),
    "probing_2": Metric("topic from 2 latents", "up"),
    "probing_5": Metric("topic from 5 latents", "up"),
    "probing_1_random": Metric("topic from 1 random direction"),
    "probing_5_random": Metric("topic from 5 random directions"),
    "probing_1_pca": Metric("topic from 1 principal component"),
    "probing_5_pca": Metric("topic from 5 principal components"),
    "probing_dense": Metric("topic from all dimensions"),
    "tpp_10": Metric("TPP, 10 latents", "up"),
    "tpp_50": Metric("TPP, 50 latents", "up"),
    "tpp_10_random": Metric("TPP, 10 random directions"),
    "tpp_10_pca": Metric("TPP, 10 principal components"),
    "scr_10": Metric("SCR, 10 latents", "up"),
    "scr_50": Metric("SCR, 50 latents", "up"),
    "scr_10_random": Metric("SCR, 10 random directions"),
    "scr_10_pca": Metric("SCR, 10 principal components"),
    "letters_known": Metric("letters the model knows", None, "letters"),
    "letter_dense_f1": Metric("letter from all dimensions, F1"),
    "letter_f1": Metric("letter from 1 latent, F1", "up"),
    "letter_f1_random": Metric("letter from 1 random direction, F1"),
    "letter_latents": Metric("latents a letter is split over", "down", LATENTS),
    "absorption": Metric("absorption, fraction", "down"),
    "absorption_full": Metric("absorption, full", "down"),
    "absorption_random": Metric("absorption, random directions"),
}
OF_WORDS = {metric for metric in OF_TASKS if metric.startswith(("letter", "absorption"))}
# Of synthetic rows alone: against the true features (metrics.truth).
OF_THE_TRUTH = {
    "mcc": Metric("MCC with the true directions", "up"),
    "f1": Metric("firing F1", "up"),
    "precision": Metric("firing precision", "up"),
    "recall": Metric("firing recall", "up"),
    "uniqueness": Metric("uniqueness", "up"),
    "splitting": Metric("alive latents per true feature", "one", LATENTS),
    "parent_absorption": Metric("absorption of parents", "down"),
    "l0_of_true": Metric("L0 / true L0", "one"),
    "true_l0": Metric("true L0", None, "features per row"),
}
METRICS = OF_EVALUATION | OF_THE_TRUTH | OF_TASKS
NO_LOSSES = "losses not measured: no model"  # of saved activations, where people look for them
# Rows of the heatmap, in the order a reader asks: what does the model lose, how close is the code, how sparse is it.
GROUPS = {
    "Loss of the model that reads the reconstruction": (
        "ce_recovered", "ce_recovered_mean_ablation", "ce_increase", "kl", "kl_recovered",
    ),
    "Reconstruction": ("fvu", "fvu_without_outliers", "cosine", "norm_ratio", "relative_bias"),
    "Known truth": (
        "mcc", "f1", "precision", "recall", "uniqueness", "splitting", "parent_absorption", "l0_of_true",
    ),
    "Latents": ("l0", "dead_share", "rank_99", "participation_ratio", "alignment", "nearest"),
    "Topics of documents, balanced accuracy: chance is .5": (
        "probing_1", "probing_1_random", "probing_1_pca", "probing_5", "probing_5_random", "probing_5_pca", "probing_dense",
    ),
    "Ablation of latents, seen by probes: nothing changed is 0": (
        "tpp_10", "tpp_10_random", "tpp_10_pca", "scr_10", "scr_10_random", "scr_10_pca",
    ),
    "First letters of words": (
        "letters_known", "letter_dense_f1", "letter_f1", "letter_f1_random", "letter_latents", "absorption",
        "absorption_random", "absorption_full",
    ),
}  # fmt: skip


def name_of(metric: str) -> str:
    """What people read for a metric; its own name if it is a new one."""
    return METRICS[metric].name if metric in METRICS else metric
