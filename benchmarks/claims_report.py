"""CLAIMS.md, made from claims.json."""

import statistics

from benchmarks.report import spread

L0_ALIKE = 0.02  # relative difference of what counts as an equal L0
SPARSITY = ("k", "target_l0")  # keys of a setting that make the L0 equal
FAR = 0.01  # of the cross-entropy recovered, several times what seeds differ by: what is so far below ours goes no further
CLAIMS = {  # what is other than in the recipe beside it
    "whitening": "BatchTopK on activations whose covariance was made the identity, folded into the weights "
    "(arXiv 2511.13981; SAELens). `shrink` is added to the variances, as a multiple of their mean",
    "k-decay": "BatchTopK whose k falls linearly to its own from `start`, `over` a share of the steps (sparsify)",
    "AbsTopK": "TopK by magnitude, latents of either sign (arXiv 2510.00404; SAELens)",
    "AbsTopK of a batch": "the same for the k x batch largest of a batch, with a threshold at inference",
    "matching pursuit": "k latents one after the other, each of what those before leave; the encoder is the decoder "
    "(arXiv 2506.03093; SAELens). It came in as the architecture `matching_pursuit`",
    "p-annealing": "ReLU with the penalty sum of f^p, p from 1 to `p end` (arXiv 2408.00113; dictionary_learning); lambda is "
    "steered to the L0, as for ReLU. It came in as `l1.anneal_to`",
    "tanh penalty": "JumpReLU with the penalty sum of tanh(scale f) and a pre-activation loss (Anthropic, Circuits Updates, "
    "January 2025; SAELens); lambda is steered to the L0",
}
COLUMNS = (
    ("L0", "l0", "{:.1f}"),
    ("CE recovered", "ce_recovered", "{:.4f}"),
    ("KL recovered", "kl_recovered", "{:.4f}"),
    ("FVU", "fvu", "{:.4f}"),
)


def beats(claim: list[dict], ours: list[dict]) -> bool:
    """Whether every SAE of a claim on a layer recovers more of the cross-entropy than every one of ours, at an equal L0."""
    is_fair = abs(mean(claim, "l0") / mean(ours, "l0") - 1) <= L0_ALIKE
    return is_fair and min(_values(claim, "ce_recovered")) > max(_values(ours, "ce_recovered"))


def markdown(found: dict) -> str:
    rows, first = found["rows"], found["chosen_on"]
    layers = [layer for layer in dict.fromkeys(row["layer"] for row in rows) if layer != first]
    lines = [
        "# What peers claim, tried on the embedded default",
        "",
        f"The default's recipe and its sisters on {found['tokens']:,} tokens of its text, expansion 8, and the same with what",
        "a paper or another library changes in it: the same stored rows in the same order, initial directions, normaliser,",
        f"Adam and schedule. What has an L0 more than {L0_ALIKE:.0%} from ours is trained once more, with another k or target.",
        f"Settings were tried on layer {first} with seed 0: of those with an equal L0 the one with the highest CE recovered is",
        f"reported on the other layers, unless it is more than {FAR} below ours.",
        f"Held-out text, {found['patched_tokens']:,} tokens for the losses. A claim comes in as an architecture or an option",
        "where, on both of these layers, each of its seeds recovers more of the cross-entropy than each of ours at an equal",
        f"L0; at one more than {L0_ALIKE:.0%} from ours it does not count. `python -m benchmarks.claims` makes this page.",
        "",
        f"{found['machine']}, {found['date']}.",
        "",
        "Differences of the means over the seeds from ours, of the L0 relative:",
        "",
        "| claim | beside our | "
        + " | ".join(f"layer {layer}: CE recovered, FVU, L0" for layer in (first, *layers))
        + " | beats it |",
        "|---|---|" + "---|" * (len(layers) + 2),
    ]  # fmt: skip
    for name in CLAIMS:
        if not any(row["claim"] == name for row in rows):
            lines.append(f"| {name} | " + " | ".join(["-"] * (len(layers) + 2)) + " | not tried yet |")
            continue
        best = chosen_row(rows, name, first)
        ours = best["beside"]
        pairs = {layer: (at_l0_of_ours(rows, best, layer), rows_of(rows, ours, layer)) for layer in (first, *layers)}
        cells = [_difference(*pair) if all(pair) else "not tried" for pair in pairs.values()]
        beaten = sum(beats(*pairs[layer]) for layer in layers if all(pairs[layer]))
        lines.append(f"| {name} | {ours} | " + " | ".join(cells) + f" | on {beaten} of {len(layers)} |")
    lines += ["", *(f"* {name}: {about}." for name, about in CLAIMS.items())]
    for layer in layers:
        lines += ["", f"## Layer {layer}", "", *_of_layer(rows, layer)]
    lines += ["", f"## Tried on layer {first}, seed 0", "", *_of_layer(rows, first)]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return "\n".join([*lines, "", f"Versions: {versions}."]) + "\n"


def chosen_row(rows: list[dict], name: str, layer: int) -> dict:
    """Of the rows of a claim on the layer where settings are chosen the one whose setting goes on: the highest CE recovered
    of those with an L0 like that of ours; if none has, the nearest L0.
    """
    own = rows_of(rows, name, layer)
    beside = mean(rows_of(rows, own[0]["beside"] or name, layer), "l0")
    alike = [row for row in own if abs(row["l0"][0] / beside - 1) <= L0_ALIKE]
    if alike:
        return max(alike, key=lambda row: row["ce_recovered"][0])
    return min(own, key=lambda row: abs(row["l0"][0] / beside - 1))


def rows_of(rows: list[dict], name: str, layer: int, setting: dict | None = None) -> list[dict]:
    """setting: None: any."""
    return [
        row
        for row in rows
        if (row["claim"], row["layer"]) == (name, layer) and (setting is None or row["setting"] == setting)
    ]


def at_l0_of_ours(rows: list[dict], best: dict, layer: int) -> list[dict]:
    """The rows on a layer of the setting that goes on; of those that ask for other L0s the ones nearest to ours."""
    own = [
        row
        for row in rows_of(rows, best["claim"], layer)
        if without_sparsity(row["setting"]) == without_sparsity(best["setting"])
    ]
    groups = [[row for row in own if row["setting"] == setting["setting"]] for setting in own]
    ours = rows_of(rows, best["beside"], layer)
    return min(groups, key=lambda group: abs(mean(group, "l0") / mean(ours, "l0") - 1), default=[])


def without_sparsity(setting: dict) -> dict:
    return {name: value for name, value in setting.items() if name not in SPARSITY}


def _values(rows: list[dict], metric: str) -> list[float]:
    return [row[metric][0] for row in rows]


def mean(rows: list[dict], metric: str) -> float:
    """Over the seeds."""
    return statistics.mean(_values(rows, metric))


def _difference(claim: list[dict], ours: list[dict]) -> str:
    ce, fvu = (mean(claim, metric) - mean(ours, metric) for metric in ("ce_recovered", "fvu"))
    return f"{ce:+.4f}, {fvu:+.4f}, {mean(claim, 'l0') / mean(ours, 'l0') - 1:+.1%}"


def _of_layer(rows: list[dict], layer: int) -> list[str]:
    """A row per setting: over the seeds, or with the interval over contexts where there is one seed."""
    lines = [
        "| | setting | " + " | ".join(title for title, _, _ in COLUMNS) + " | dead latents | seeds | s training |",
        "|---|---|" + "---|" * (len(COLUMNS) + 3),
    ]
    on_layer = [row for row in rows if row["layer"] == layer]
    for name, setting in dict.fromkeys((row["claim"], _setting(row["setting"])) for row in on_layer):
        own = [row for row in rows_of(rows, name, layer) if _setting(row["setting"]) == setting]
        cells = [_cell([row[metric] for row in own], form) for _, metric, form in COLUMNS]
        numbers = (f"{statistics.mean(row[key] for row in own):.0f}" for key in ("dead", "seconds"))
        dead, seconds = numbers
        lines.append(f"| {name} | {setting} | " + " | ".join(cells) + f" | {dead} | {len(own)} | {seconds} |")
    return lines


def _cell(values: list[list[float]], form: str) -> str:
    """Each value as it is, low and high."""
    if len(values) > 1:
        return spread([value for value, _, _ in values], form)
    value, low, high = (form.format(each) for each in values[0])
    return f"{value} [{low}, {high}]"


def _setting(setting: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in setting.items())
