"""A graph of circuit-tracer's as one picture: `python -m benchmarks.circuit_picture GRAPH.json OUT.png`.

The page of circuit-tracer shows all of a graph; here are the nodes that matter most and the strongest edges between them.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from matplotlib.axes import Axes

from sae_atlas.figures.style import FAINT, GREY, INK, headline, page, save, style

LATENTS = 60  # that are shown: those of most influence on the predictions
ERRORS = 12
IN_A_CELL = 4  # nodes of one token and layer
EDGES = 140
LOOKS = {  # feature_type of circuit-tracer -> (marker, colour, what it is)
    "cross layer transcoder": ("o", "#2a6f97", "latent"),
    "mlp reconstruction error": ("D", "#c9c9c9", "what a transcoder missed"),
    "embedding": ("s", INK, "token"),
    "logit": ("s", "#b5651d", "predicted token"),
}
UP, DOWN = "#2a6f97", "#b23a48"  # of edges that raise and that lower


def chosen_nodes(graph: dict) -> list[dict]:
    """Tokens, predictions, and the latents and errors that come first, few of one token and layer.

    `influence` sums up shares of those before them.
    """
    nodes = sorted(graph["nodes"], key=lambda node: node["influence"] or 0)
    limits = {"cross layer transcoder": LATENTS, "mlp reconstruction error": ERRORS}
    counts, chosen = Counter(), []
    for node in nodes:
        kind, cell = node["feature_type"], (node["ctx_idx"], node["layer"])
        fits = kind not in limits or counts[cell] < IN_A_CELL
        if fits and counts[kind] < limits.get(kind, 6 if kind == "logit" else len(nodes)):
            counts.update((kind, cell))
            chosen.append(node)
    return chosen


def places(nodes: list[dict]) -> dict[str, tuple[float, float]]:
    """x: the token's position, nodes of one position and layer beside each other; y: the layer."""
    top = max(int(node["layer"]) for node in nodes if node["layer"] != "E")
    heights = {node["node_id"]: -1.5 if node["layer"] == "E" else min(int(node["layer"]), top) for node in nodes}
    cells: dict[tuple, list[str]] = {}
    for node in nodes:
        cells.setdefault((node["ctx_idx"], heights[node["node_id"]]), []).append(node["node_id"])
    return {
        name: (position + (number - (len(names) - 1) / 2) * min(0.24, 0.85 / len(names)), height)
        for (position, height), names in cells.items()
        for number, name in enumerate(names)
    }


def draw(axes: Axes, graph: dict) -> None:
    nodes = chosen_nodes(graph)
    at = places(nodes)
    links = [link for link in graph["links"] if {link["source"], link["target"]} <= set(at)]
    links = sorted(links, key=lambda link: abs(link["weight"]))[-EDGES:]
    strongest = max(abs(link["weight"]) for link in links)
    for link in links:
        share = abs(link["weight"]) / strongest
        (x, y), (x2, y2) = at[link["source"]], at[link["target"]]
        look = {"linewidth": 0.4 + 2.6 * share, "alpha": 0.15 + 0.6 * share, "zorder": 1}
        axes.plot([x, x2], [y, y2], color=UP if link["weight"] > 0 else DOWN, solid_capstyle="round", **look)
    for kind, (marker, colour, label) in LOOKS.items():
        own = [node for node in nodes if node["feature_type"] == kind]
        if own:
            xs, ys = zip(*(at[node["node_id"]] for node in own), strict=True)
            axes.scatter(xs, ys, s=34, marker=marker, color=colour, edgecolor="white", zorder=3, label=label)
    for node in nodes:
        if node["feature_type"] == "cross layer transcoder":
            latent = node["node_id"].split("_")[1]
            axes.annotate(
                latent, at[node["node_id"]], (0, 4), textcoords="offset points", fontsize=5.5, ha="center", color=GREY
            )
        if node["feature_type"] == "logit":
            text = node["clerp"].removeprefix("Output ")
            axes.annotate(
                text, at[node["node_id"]], (6, 3), textcoords="offset points", fontsize=7, rotation=35, color=INK
            )
    tokens = graph["metadata"]["prompt_tokens"]
    axes.set_xticks(range(len(tokens)), [repr(token)[1:-1] for token in tokens])
    axes.set(xlim=(-0.6, len(tokens) - 0.4), ylabel="layer")
    axes.grid(True, axis="y", color=FAINT)
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graph", type=Path)
    parser.add_argument("png", type=Path)
    parser.add_argument("--about", default="", help="what stands under the title")
    chosen = parser.parse_args()
    graph = json.loads(chosen.graph.read_text(encoding="utf-8"))
    with style():
        figure = page(9.5, 8.2)
        draw(figure.subplots(), graph)
        headline(figure, "".join(graph["metadata"]["prompt_tokens"][1:]) + " …", chosen.about.replace("\\n", "\n"))
        save(figure, chosen.png, chosen.png.with_suffix(".svg"), "attribution graph")
    chosen.png.with_suffix(".svg").unlink()


if __name__ == "__main__":
    main()
