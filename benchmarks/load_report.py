"""LOAD.md, made from load.json."""

import itertools

MB = 1e6


def markdown(found: dict) -> str:
    lines = [
        "# Large atlases, long texts, wide models",
        "",
        "`python -m benchmarks.load` measures these tables. Memory is the peak of the process, in MB of 10^6 bytes.",
        "",
        f"{found['machine']}, {found['threads']} threads, {found['date']}"
        + "".join(f"; {part}: {date}" for part, date in found.get("later", {}).items())
        + ".",
    ]
    parts = {"graph": _graph, "starts": _starts, "tokens": _tokens, "texts": _texts, "wide": _wide}
    return (
        "\n".join([*lines, *(line for name, part in parts.items() if name in found for line in part(found[name]))])
        + "\n"
    )


def _graph(rows: list[dict]) -> list[str]:
    body = [
        f"| {row['layers']} x {row['snapshots']} x {row['recipes']} | {row['jobs']:,} | {row['seconds']:.1f} "
        f"| {row['processor_seconds']:.1f} | {row['peak_mb']:.0f} |"
        for row in rows
    ]
    return [
        "",
        "## The plan",
        "`snakemake -n` of an atlas of which nothing is made yet, with figures and cards.",
        "",
        "| layers x snapshots x recipes | jobs | s | processor s | MB |",
        "|---|---|---|---|---|",
        *body,
    ]


def _starts(rows: list[dict]) -> list[str]:
    body = [
        f"| {row['rule']} | {row['seconds']:.1f} | {row['processor_seconds']:.1f} | {row['peak_mb']:.0f} "
        f"| {', '.join(row['imports'])} |"
        for row in rows
    ]
    return [
        "",
        "## A job's start",
        "A new Python that imports what the rule's script does, wherever in it. transformers and numba are imported on use,",
        "by rules that run the base model or train.",
        "",
        "| rule | s | processor s | MB | of the heavy ones |",
        "|---|---|---|---|---|",
        *body,
    ]


def _tokens(rows: list[dict]) -> list[str]:
    counts = list(rows[0]["at"])
    steps = list(itertools.pairwise(counts))
    heads = [f"MB at {int(count):,}" for count in counts] + [f"bytes per token, {_step(*step)}" for step in steps]
    heads += [f"s at {int(count):,}" for count in counts] + [f"us per token, {_step(*step)}" for step in steps]
    body = []
    for row in rows:
        at = row["at"]
        cells = [f"{at[count]['peak_mb']:.0f}" for count in counts]
        cells += [f"{_more(at, 'peak_mb', step) * MB:.0f}" for step in steps]
        cells += [f"{at[count]['seconds']:.1f}" for count in counts]
        cells += [f"{_more(at, 'seconds', step) * 1e6:.0f}" for step in steps]
        body.append(f"| {row['stage']} | " + " | ".join(cells) + " |")
    return [
        "",
        "## Every stage at more tokens",
        "One layer of a random GPT-NeoX (2 x 128), TopK 16 of 1,024 latents, on the embedded text as bytes. The columns count",
        "train tokens; half as many are held out, a quarter is read for contexts. Per token: the difference between two",
        "columns over the train tokens between them; other work on the machine is in the seconds, and what the first use of a",
        "kernel takes. Seconds are without imports at the top of a module.",
        "",
        "| stage | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(heads),
        *body,
        "",
        "What grows, and why: `tokenize` holds the ids of the text, to shuffle its contexts (next table). `shard_activations`",
        "holds of every token of the window its norm and its number (16 bytes): the median is that of all. `save_held_out` and",
        "`evaluate_sae` hold ids and masks, and sums per context. `top_contexts` and `score_latents` hold what fired in which",
        "document (features.tokens), which is what they tell. Activations and latents are read and made in parts everywhere.",
    ]


def _texts(rows: list[dict]) -> list[str]:
    grown = [""] + [
        f"{(more['peak_mb'] - less['peak_mb']) * MB / (more['tokens'] - less['tokens']):.1f}"
        for less, more in itertools.pairwise(rows)
    ]
    body = [
        f"| {row['tokens']:,} | {row['start_mb']:.0f} | {row['peak_mb']:.0f} | {more} | {row['asked_mb']:,.0f} |"
        for row, more in zip(rows, grown, strict=True)
    ]
    return [
        "",
        "## A long text",
        "`tokenize` of articles in a JSON Lines file, contexts of 1,024, a vocabulary of 49,152: two bytes an id. Bytes per",
        "token: the difference from the row before over the tokens between them. The rule asks for the last column.",
        "",
        "| tokens | MB before it | MB | bytes per token | MB asked for |",
        "|---|---|---|---|---|",
        *body,
    ]


def _step(less: str, more: str) -> str:
    return f"{int(less):,} to {int(more):,}"


def _more(at: dict, key: str, step: tuple[str, str]) -> float:
    less, more = step
    return (at[more][key] - at[less][key]) / (int(more) - int(less))


def _wide(found: dict) -> list[str]:
    weights = 2 * 4 * found["d_model"] * found["latents"] / MB
    body = [
        f"| {stage} | {each['seconds']:.1f} | {each['peak_mb']:,.0f} | {_planned(each)} | {each['peak_mb'] / weights:.2f} |"
        for stage, each in found["stages"].items()
    ]
    return [
        "",
        "## A wide model in one long context",
        f"d {found['d_model']:,}, {found['latents']:,} latents, one context of {found['context']:,} tokens; encoder and",
        f"decoder take {weights:,.0f} MB in float32. Planned: the sum that `sae-atlas plan` makes; for `evaluate_sae` it is",
        "enough for latents that are all alive, whose directions are compared; here at most a quarter of them fire.",
        "",
        "| stage | s | MB | planned MB | MB over encoder and decoder |",
        "|---|---|---|---|---|",
        *body,
    ]


def _planned(each: dict) -> str:
    return f"{each['planned_mb']:,.0f}" if "planned_mb" in each else ""
