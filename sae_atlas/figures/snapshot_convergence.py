"""Figure 3: how the SAEs of a recipe became what they are: the metrics at every snapshot, all layers."""

from pathlib import Path

from sae_atlas.figures.scales import pivot
from sae_atlas.figures.style import (
    headline,
    layer_bar,
    layer_colours,
    page,
    save,
    short_number,
    style,
    tokens_axis,
    value_axis,
)
from sae_atlas.io.tables import read_table
from sae_atlas.metrics.labels import NO_LOSSES

# metric -> (title, what the y axis shows)
PANELS = {
    "ce_recovered": ("CE recovered ↑", "share, zero ablation"),
    "ce_increase": ("CE increase ↓", "nats per token"),
    "kl": ("KL from the clean model ↓", "nats per token"),
    "fvu": ("FVU ↓", "share of the variance"),
    "cosine": ("Cosine ↑", "cosine of x and its reconstruction"),
    "l0": ("L0", "active latents per token"),
    "dead_share": ("Dead latents ↓", "share of the latents"),
    "settled": ("Settled latents", "share of the alive latents"),
}


def plot_snapshot_convergence(
    metrics: str | Path,
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
) -> None:
    """Draw the table `metrics` (metrics.evaluate.METRIC_COLUMNS) of one recipe. title: base model and site.

    Raises AtlasError for an unknown colour map.
    """
    table = read_table(metrics)
    colours = layer_colours(colour_map, sorted(table["layer"].unique()))
    tokens = table.drop_duplicates("snapshot").set_index("snapshot")["tokens"]
    with style():
        figure = page(13.5, 7.2)
        panels = {metric: words for metric, words in PANELS.items() if (table["metric"] == metric).any()}
        columns = -(-len(panels) // 2)
        grid = figure.subplots(2, columns, sharex=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (metric, (name, label)) in zip(grid.flat, panels.items(), strict=False):
            values = pivot(table, metric)
            for layer, line in values.items():
                options = {"linewidth": 1.1, "marker": "o", "markersize": 2.8, "clip_on": False}
                axes.plot(tokens[line.index], line, color=colours[layer], zorder=2.5, **options)
            if metric == "settled":
                axes.set_ylim(0, 1.03)  # a share that starts near 0 is no quantity that spans decades
            else:
                value_axis(axes, values.to_numpy(dtype=float).ravel())
            axes.set_title(name)
            axes.set_ylabel(f"{label} (log scale)" if axes.get_yscale() == "log" else label)
            tokens_axis(axes, tokens.max())
        for axes in grid.flat[: len(panels) - columns]:
            axes.set_xlabel("")
        for axes in grid.flat[len(panels) - columns : columns]:  # with nothing below them
            axes.tick_params(labelbottom=True)
        if len(colours) > 1:
            layer_bar(figure, grid, colours)
        name = f"Convergence over the snapshots: {title}, recipe {recipe}"
        headline(figure, name, _below(table))
        save(figure, png, svg, name)


def _below(table) -> str:
    window = table.groupby("metric")["held_out_tokens"].max()
    losses = f"losses on {window['ce_sae']:,}" if "ce_sae" in window else NO_LOSSES
    return (
        f"measured on {window['fvu']:,} held-out tokens, {losses}; "
        f"snapshots at the dots, the last one at {short_number(table['tokens'].max())} training tokens\n"
        "settled: of the latents that fired, those whose decoder direction has a cosine of at least 0.9 with one of the "
        "final snapshot's; dead: did not fire on these tokens"
    )
