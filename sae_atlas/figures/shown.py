"""How metrics are called where people read them, and which direction is better. Light: cards read it too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """A metric in figures and tables."""

    name: str
    better: str  # up | down | one (best at 1) | none (neither direction is better)

    @property
    def arrow(self) -> str:
        return {"up": "↑", "down": "↓", "one": "→ 1", "none": ""}[self.better]


# In the order a reader asks: what does the model lose, how close is the code, how sparse is it.
GROUPS = {
    "Loss of the model that reads the reconstruction": {
        "ce_recovered": Shown("CE recovered, zero ablation", "up"),
        "ce_recovered_mean_ablation": Shown("CE recovered, mean ablation", "up"),
        "ce_increase": Shown("CE increase", "down"),
        "kl": Shown("KL from the clean model", "down"),
        "kl_recovered": Shown("KL recovered", "up"),
    },
    "Reconstruction": {
        "fvu": Shown("FVU", "down"),
        "fvu_without_outliers": Shown("FVU without outlier tokens", "down"),
        "cosine": Shown("cosine", "up"),
        "norm_ratio": Shown("norm ratio", "one"),
        "relative_bias": Shown("relative bias", "one"),
    },
    "Latents": {
        "l0": Shown("L0", "none"),
        "dead_share": Shown("dead share of the latents", "down"),
        "rank_99": Shown("hold 99% of the importance", "none"),
        "participation_ratio": Shown("participation ratio", "none"),
        "alignment": Shown("encoder-decoder cosine", "none"),
        "nearest": Shown("nearest other decoder, cosine", "down"),
    },
}
SHOWN = {metric: shown for group in GROUPS.values() for metric, shown in group.items()}
OTHERS = {
    "explained_variance": "explained variance",
    "explained_variance_without_outliers": "explained variance without outlier tokens",
    "mse": "MSE",
    "ce_clean": "CE, clean",
    "ce_zero": "CE, zero ablation",
    "ce_mean": "CE, mean ablation",
    "ce_sae": "CE, through the SAE",
    "kl_zero": "KL from the clean model, zero ablation",
    "activation_rate": "activation rate = L0 / latents",
    "l0_median": "L0, median of tokens",
    "l0_std": "L0, standard deviation over tokens",
    "alive": "alive latents",
    "dead": "dead latents",
    "importance": "importance, total",
    "alpha": "alpha = 1 - L0 / alive",
    "g": "g(alpha)",
    "d_star": "d* = alive / g(alpha)",
    "settled": "settled: within cosine 0.9 of the final snapshot's",
}


def name_of(metric: str) -> str:
    """What people read for a metric; its own name if it is a new one."""
    return SHOWN[metric].name if metric in SHOWN else OTHERS.get(metric, metric)
