"""QUALITY.md, made from quality.json."""

import statistics

from benchmarks.contestants import L0, SLACK

COLUMNS = (
    ("CE recovered", "ce_recovered", "{:.3f}"),
    ("FVU", "fvu", "{:.3f}"),
    ("L0", "l0", "{:.1f}"),
    ("dead latents", "dead", "{:.0f}"),
)


def markdown(found: dict) -> str:
    names = list(dict.fromkeys((row["library"], row["architecture"]) for row in found["rows"]))
    names.sort(key=lambda name: (name[1], name[0] != "sae_atlas", name[0]))
    lines = [
        "# How good the SAEs are",
        "",
        f"Layer 14 of the embedded default, expansion 8, {found['tokens']:,} tokens once, L0 {L0}: the same stored rows in",
        "the same order for everyone, measured on held-out text by `sae_atlas.metrics` after reading the weights into our",
        "checkpoint format (a peer's normaliser and decoder norms folded in). Median over the seeds (lowest to highest).",
        "Each trainer's settings were tried on seed 0 and the one that recovers most cross-entropy goes on: a mild",
        f"selection on the held-out text, the same for everyone, among those with an L0 of at most {SLACK} x {L0} (the lowest",
        "L0 if none has). Few settings were tried where a trainer is slow. `make bench` runs it; `--tokens` sets the size.",
        "",
        f"{found['machine']}, {found['date']}.",
        "",
        "| architecture | library | " + " | ".join(title for title, _, _ in COLUMNS) + " | seeds | setting |",
        "|---|---|" + "---|" * (len(COLUMNS) + 2),
    ]
    for library, architecture in names:
        rows = [row for row in found["rows"] if (row["library"], row["architecture"]) == (library, architecture)]
        chosen = [row for row in rows if row.get("chosen")]
        if chosen:
            cells = [_spread([row[key] for row in chosen], form) for _, key, form in COLUMNS]
            cells += [str(len(chosen)), _setting(chosen[0]["setting"])]
        else:
            cells = [rows[0]["reason"]] + ["-"] * (len(COLUMNS) + 1)
        lines.append(f"| {architecture} | {library} | " + " | ".join(cells) + " |")
    lines += ["", "## Settings tried, on seed 0", "", "| trainer | setting | CE recovered | FVU | L0 | dead |"]
    lines.append("|---|---|---|---|---|---|")
    for row in found["rows"]:
        if row.get("seed") == 0:
            values = f"{row['ce_recovered']:.3f} | {row['fvu']:.3f} | {row['l0']:.1f} | {row['dead']:.0f}"
            lines.append(f"| {row['library']} {row['architecture']} | {_setting(row['setting'])} | {values} |")
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return "\n".join([*lines, "", f"Versions: {versions}."]) + "\n"


def _spread(values: list[float], form: str) -> str:
    middle, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def _setting(setting: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in setting.items())
