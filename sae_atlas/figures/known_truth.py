"""Figure 11: which recipe finds the true features of synthetic rows: a panel per metric, sister runs below each other."""

from pathlib import Path
from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sae_atlas.figures.style import GREY, INK, headline, layer_bar, layer_colours, page, save, style
from sae_atlas.io.tables import read_table
from sae_atlas.metrics.labels import METRICS

TITLE_WIDTH = 20  # letters of a panel's title in a line
METRICS_DRAWN = ("mcc", "f1", "precision", "recall", "uniqueness", "parent_absorption", "l0_of_true")


def plot_known_truth(
    sisters: str | Path,
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
) -> None:
    """Draw the table `sisters` of all recipes (metrics.collect). title: base model and site.

    Raises AtlasError for an unknown colour map.
    """
    table = read_table(sisters)
    final = table[table["snapshot"] == "final"]
    recipes = list(dict.fromkeys(final["recipe"]))
    colours = layer_colours(colour_map, sorted(final["layer"].unique()))
    drawn = [metric for metric in METRICS_DRAWN if (final["metric"] == metric).any()]
    with style():
        figure = page(2.2 + 1.75 * len(drawn), 2.3 + 0.3 * len(recipes))
        panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, drawn, strict=True):
            _draw(axes, final[final["metric"] == metric], recipes, colours)
            _axis(axes, metric)
        panels[0].set_yticks(range(len(recipes)), labels=recipes)
        panels[0].set_ylim(len(recipes) - 0.5, -0.5)  # the first recipe on top
        panels[0].get_yticklabels()[recipes.index(recipe)].set_fontweight("bold")
        if len(colours) > 1:
            layer_bar(figure, panels, colours)
        name = f"Against the true features: {title}"
        rows = final.loc[final["metric"] == "f1", "held_out_tokens"].max()
        true = final.loc[final["metric"] == "true_l0", "value"].median()
        below = (
            f"final snapshots of {recipe} (bold) and its sister runs, a dot per layer with its 95% bootstrap interval if "
            f"there is one{'; open: median of the layers' if len(colours) > 1 else ''}\n"
            f"firing on {rows:,} held-out rows, in which {true:.3g} true features are active on average"
        )
        headline(figure, name, below)
        save(figure, png, svg, f"{name}, recipe {recipe}")


def _draw(axes: Axes, rows: pd.DataFrame, recipes: list[str], colours: dict[int, tuple]) -> None:
    """One metric: a line for each recipe."""
    for height, recipe in enumerate(recipes):
        of_recipe = rows[rows["recipe"] == recipe]
        inks = [colours[layer] for layer in of_recipe["layer"]]
        axes.hlines([height] * len(of_recipe), of_recipe["low"], of_recipe["high"], colors=inks, linewidth=1.4)
        axes.scatter(
            of_recipe["value"], [height] * len(of_recipe), 26, inks, edgecolors="white", linewidths=0.5, zorder=3
        )
        if len(colours) > 1:
            options = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.1, "zorder": 4}
            axes.scatter([of_recipe["value"].median()], [height], 80, **options)


def _axis(axes: Axes, metric: str) -> None:
    about = METRICS[metric]
    axes.set_title(fill(f"{about.name} {about.arrow}", TITLE_WIDTH), fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2.5, 5, 10]))
    if about.better == "one":
        axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 1.1 * max(1.0, axes.dataLim.x1))
    else:
        axes.set_xlim(0, 1.02)
