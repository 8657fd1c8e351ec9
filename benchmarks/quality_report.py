"""QUALITY.md, made from quality.json."""

from benchmarks.contestants import ALIKE, DEAD_AFTER, L0, LAYERS, SLACK
from benchmarks.report import spread

QUALITY_COLUMNS = (
    ("CE recovered", "ce_recovered", "{:.3f}"),
    ("FVU", "fvu", "{:.3f}"),
    ("L0", "l0", "{:.1f}"),
    ("dead latents", "dead", "{:.0f}"),
)


def markdown(found: dict) -> str:
    lines = [
        "# How good the SAEs are",
        "",
        f"Layers of the embedded default, expansion 8, L0 {L0}, the text once: the same stored rows in the same order for",
        "everyone, measured on held-out text by `sae_atlas.metrics` after reading the weights into our checkpoint format",
        "(a peer's normaliser and decoder norms folded in). Median over the seeds (lowest to highest). Each trainer's",
        f"settings were tried on layer {LAYERS[0]} with seed 0. Among those with an L0 of at most {SLACK} x {L0} (the lowest",
        f"L0 if none has) and a CE recovered within {ALIKE} of the best, about what seeds differ by, the one with the fewest",
        "dead latents goes on: a mild selection on that layer's held-out text, the same for everyone. The other layers are",
        "reported with the setting chosen there. Few settings were tried where a trainer is slow.",
        f"Latents count as dead for the trainer after {DEAD_AFTER:,} tokens without firing unless the setting says otherwise.",
        "Few dead latents have a price that is not in this table: what is revived is seldom about one thing",
        "([docs/default-atlas.md](../docs/default-atlas.md) says how much). `make bench` runs it; `--tokens` sets the size.",
        "",
        f"{found['machine']}, {found['date']}.",
    ]
    for tokens in sorted({row["tokens"] for row in found["rows"]}, reverse=True):
        rows = [row for row in found["rows"] if row["tokens"] == tokens]
        lines += [
            "",
            f"## {tokens:,} tokens",
        ]
        first, *others = dict.fromkeys(row["layer"] for row in rows if "reason" not in row)
        for layer in [*sorted(others), first]:
            chosen_on = ", on which the settings were chosen" if layer == first else ""
            on_layer = [row for row in rows if row.get("layer", layer) == layer]
            lines += ["", f"### Layer {layer}, {tokens:,} tokens{chosen_on}", "", *chosen_rows(on_layer)]
        tried = [row for row in rows if row.get("layer") == first and row["seed"] == 0]
        lines += ["", f"### Settings tried on layer {first} with {tokens:,} tokens, seed 0", "", *tried_rows(tried)]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return "\n".join([*lines, "", f"Versions: {versions}."]) + "\n"


def chosen_rows(rows: list[dict]) -> list[str]:
    """A table of each trainer's best setting over the seeds."""
    names = sorted({(row["library"], row["architecture"]) for row in rows})
    names.sort(key=lambda name: (name[1], name[0] != "sae_atlas"))
    lines = [
        "| architecture | library | " + " | ".join(title for title, _, _ in QUALITY_COLUMNS) + " | seeds | setting |",
        "|---|---|" + "---|" * (len(QUALITY_COLUMNS) + 2),
    ]
    for library, architecture in names:
        own = [row for row in rows if (row["library"], row["architecture"]) == (library, architecture)]
        chosen = [row for row in own if row.get("chosen")]
        if chosen:
            cells = [spread([row[key] for row in chosen], form) for _, key, form in QUALITY_COLUMNS]
            cells += [str(len(chosen)), _setting(chosen[0]["setting"])]
        else:
            cells = [own[0]["reason"]] + ["-"] * (len(QUALITY_COLUMNS) + 1)
        lines.append(f"| {architecture} | {library} | " + " | ".join(cells) + " |")
    return lines


def tried_rows(rows: list[dict]) -> list[str]:
    lines = ["| trainer | setting | CE recovered | FVU | L0 | dead |", "|---|---|---|---|---|---|"]
    for row in rows:
        values = f"{row['ce_recovered']:.3f} | {row['fvu']:.3f} | {row['l0']:.1f} | {row['dead']:.0f}"
        lines.append(f"| {row['library']} {row['architecture']} | {_setting(row['setting'])} | {values} |")
    return lines


def _setting(setting: dict) -> str:
    """Its keys and values in words, those of a group one by one."""
    words = []
    for name, value in setting.items():
        group = value.items() if isinstance(value, dict) else [("", value)]
        words += [f"{name} {key}".strip().replace("_", " ") + f" {number}" for key, number in group]
    return ", ".join(words)
