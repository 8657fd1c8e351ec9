"""CLAIMS.md, made from claims.json."""

from statistics import mean

from benchmarks.report import spread

L0_ALIKE = 0.02  # relative difference of what counts as an equal L0
CLAIMS = {  # what is other than in the recipe beside it
    "whitening": "BatchTopK on activations whose covariance was made the identity, folded into the weights "
    "(arXiv 2511.13981; SAELens). `shrink` is added to the variances, as a multiple of their mean",
    "k-decay": "BatchTopK whose k falls linearly to its own from `start`, `over` a share of the steps (sparsify)",
    "AbsTopK": "TopK by magnitude, latents of either sign (arXiv 2510.00404; SAELens)",
    "AbsTopK of a batch": "the same for the k x batch largest of a batch, with a threshold at inference",
    "matching pursuit": "k latents one after the other, each of what those before leave; the encoder is the decoder "
    "(arXiv 2506.03093; SAELens)",
    "p-annealing": "ReLU with the penalty sum of f^p, p from 1 to `p end` (arXiv 2408.00113; dictionary_learning); lambda is "
    "steered to the L0, as for ReLU",
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
    is_fair = abs(_mean(claim, "l0") / _mean(ours, "l0") - 1) <= L0_ALIKE
    return is_fair and min(_values(claim, "ce_recovered")) > max(_values(ours, "ce_recovered"))


def markdown(found: dict) -> str:
    rows, first = found["rows"], found["chosen_on"]
    layers = [layer for layer in dict.fromkeys(row["layer"] for row in rows) if layer != first]
    lines = [
        "# What peers claim, tried on the embedded default",
        "",
        f"The default's recipe and its sisters on {found['tokens']:,} tokens of its text, expansion 8, and the same with what",
        "a paper or another library changes in it: the same stored rows in the same order, initial directions, normaliser,",
        f"Adam and schedule. Settings were tried on layer {first} with seed 0: of those with an L0 within {L0_ALIKE:.0%} of",
        "ours the one with the highest CE recovered is reported on the other layers. Held-out text,",
        f"{found['patched_tokens']:,} tokens for the losses. A claim comes in as an architecture or an option where, on both",
        "of these layers, each of its seeds recovers more of the cross-entropy than each of ours at an equal L0.",
        "`python -m benchmarks.claims` makes this page.",
        "",
        f"{found['machine']}, {found['date']}.",
        "",
        "| claim | beside our | "
        + " | ".join(f"layer {layer}: CE recovered, FVU, L0" for layer in layers)
        + " | beats it |",
        "|---|---|" + "---|" * (len(layers) + 1),
    ]  # fmt: skip
    for name in CLAIMS:
        own = [row for row in rows if row["claim"] == name]
        if not own:
            continue
        pairs = [(_of(rows, name, layer), _of(rows, own[0]["beside"], layer)) for layer in layers]
        cells = [_difference(*pair) if all(pair) else "not tried" for pair in pairs]
        wins = [beats(*pair) for pair in pairs if all(pair)]
        verdict = f"on {sum(wins)} of {len(wins)} layers" if wins else f"not tried beyond layer {first}"
        lines.append(f"| {name} | {own[0]['beside']} | " + " | ".join(cells) + f" | {verdict} |")
    lines += ["", "Differences of the seeds' means from ours.", ""]
    lines += [f"* {name}: {about}." for name, about in CLAIMS.items()]
    for layer in layers:
        lines += ["", f"## Layer {layer}", "", *_of_layer(rows, layer)]
    lines += ["", f"## Tried on layer {first}, seed 0", "", *_of_layer(rows, first)]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return "\n".join([*lines, "", f"Versions: {versions}."]) + "\n"


def _of(rows: list[dict], name: str, layer: int) -> list[dict]:
    return [row for row in rows if (row["claim"], row["layer"]) == (name, layer)]


def _values(rows: list[dict], metric: str) -> list[float]:
    return [row[metric][0] for row in rows]


def _mean(rows: list[dict], metric: str) -> float:
    return mean(_values(rows, metric))


def _difference(claim: list[dict], ours: list[dict]) -> str:
    ce, fvu = (_mean(claim, metric) - _mean(ours, metric) for metric in ("ce_recovered", "fvu"))
    return f"{ce:+.4f}, {fvu:+.4f}, {_mean(claim, 'l0') / _mean(ours, 'l0') - 1:+.1%}"


def _of_layer(rows: list[dict], layer: int) -> list[str]:
    """A row per setting: over the seeds, or with the interval over contexts where there is one seed."""
    lines = [
        "| | setting | " + " | ".join(title for title, _, _ in COLUMNS) + " | dead latents | seeds | s training |",
        "|---|---|" + "---|" * (len(COLUMNS) + 3),
    ]
    on_layer = [row for row in rows if row["layer"] == layer]
    for name, setting in dict.fromkeys((row["claim"], _setting(row["setting"])) for row in on_layer):
        own = [row for row in _of(rows, name, layer) if _setting(row["setting"]) == setting]
        cells = [_cell([row[metric] for row in own], form) for _, metric, form in COLUMNS]
        numbers = (f"{mean(row[key] for row in own):.0f}" for key in ("dead", "seconds"))
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
