"""The plan as a table for the terminal (`make plan`): what will be done, how long it takes, and what a run took."""

from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sae_atlas.errors import AtlasError, nearest
from sae_atlas.plan.atlas import Atlas
from sae_atlas.plan.config import read_config
from sae_atlas.plan.costs import Cost, read_costs
from sae_atlas.plan.estimate import GPU_EFFICIENCY, estimate, share
from sae_atlas.plan.jobs import jobs
from sae_atlas.plan.machine import GPUS, Machine, probe
from sae_atlas.plan.memory import memory, remedies
from sae_atlas.plan.shape import Shape, read_shape
from sae_atlas.plan.work import count, disk
from sae_atlas.sizes import format_rounded, format_seconds


def show_plan(config: str | Path, schema: str | Path, folder: str | Path, gpu: str, cores: int | None) -> None:
    """Print the plan of `config` for a run in `folder`. gpu: one of machine.GPUS.

    Raises AtlasError for a mistake in the config or an unknown GPU. Where the base model's sizes cannot be had, only jobs
    and tokens are printed, and why.
    """
    if gpu not in GPUS:
        raise AtlasError(f"--gpu: {gpu!r} is not in the table; {nearest(gpu, GPUS)}")
    atlas, folder = Atlas(read_config(config, schema)), Path(folder)
    console = Console()
    console.print(_headline(atlas, config))
    try:
        shape = read_shape(atlas.config["base_model"], folder / "results" / "base_model" / "model")
    except AtlasError as error:
        console.print(plan_table(atlas, None, None, folder, gpu, console.width))
        console.print(f"Arithmetic, disk and time are unknown. {error}", markup=False)
        return
    machine = probe(folder, atlas.config["base_model"]["dtype"], cores)
    console.print(plan_table(atlas, shape, machine, folder, gpu, console.width))
    console.print(_below(atlas, shape, machine, folder, gpu))


def _headline(atlas: Atlas, config: str | Path) -> Text:
    sizes = len(atlas.recipes), len(atlas.layers), len(atlas.snapshots)
    recipes, layers, snapshots = sizes
    grid = f"{recipes} recipes x {layers} layers x {snapshots} snapshots"
    return Text(f"{config}: {grid} = {recipes * layers * snapshots} SAEs", style="bold")


def plan_table(atlas: Atlas, shape: Shape | None, machine: Machine | None, folder: Path, gpu: str, width: int) -> Group:
    """A row per rule in `width` columns of text: jobs, tokens, FLOPs, disk, times; beside them what a run in `folder` took.

    Names and numbers are never cut off: where there is no room for all columns, the least important are left out, and a
    line says which. Without shape and machine there are jobs and tokens only.
    """
    costs = {cost.rule: cost for cost in read_costs(folder / "results" / "benchmarks", jobs(atlas))}
    ran = any(cost.measured for cost in costs.values())
    rows = []
    for work in count(atlas, shape):
        cost = costs[work.rule]
        part = f"{cost.measured:,} of " if 0 < cost.measured < cost.jobs else ""
        row = {"rule": work.rule, "jobs": f"{part}{work.jobs:,}"}
        row["tokens"] = format_rounded(work.tokens) if work.tokens else ""
        if machine:
            time = estimate(work, machine, GPUS[gpu])
            row["FLOPs"] = f"{work.products:.2g}" if work.products else ""
            row["written"] = _bytes(work.written) if work.written else ""
            row |= {"time\nhere": format_seconds(time.here), f"on\n{gpu}": format_seconds(time.gpu)}
            row |= _beside(time.here, cost) if ran else {}
        rows.append(row)
    heads = list(rows[0])
    left_out = _too_wide(heads, rows, width, ["FLOPs", "written", "tokens", f"on\n{gpu}"])
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in heads:
        if head not in left_out:
            number = head != "rule"
            table.add_column(head, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        table.add_row(*(row[head] for head in heads if head not in left_out))
    names = ", ".join(left_out).replace("\n", " ")
    note = f"No room in {width} columns for: {names}. A wider terminal, or COLUMNS=120, shows them."
    return Group(table, *([Text(note, style="dim")] if left_out else []))


def _too_wide(heads: list[str], rows: list[dict[str, str]], width: int, least_important: list[str]) -> list[str]:
    """Columns to leave out, the least important first, so that the others fit with two spaces between them."""
    widths = {head: max(map(len, [*head.splitlines(), *(row[head] for row in rows)])) for head in heads}
    left_out = []
    for head in least_important:
        if sum(widths.values()) + 2 * (len(widths) - 1) > width and widths.pop(head, None):
            left_out.append(head)
    return left_out


def _beside(predicted: float, cost: Cost) -> dict[str, str]:
    """What the rule's jobs took, and how the prediction for as many jobs compares."""
    if not cost.measured:
        return {"took": "", "here /\ntook": ""}
    return {
        "took": format_seconds(cost.wall),
        "here /\ntook": f"{predicted * cost.measured / cost.jobs / cost.wall:.2f}",
    }


def _below(atlas: Atlas, shape, machine: Machine, folder: Path, gpu: str) -> Group:
    works = count(atlas, shape)
    times = {work.rule: estimate(work, machine, GPUS[gpu]) for work in works}
    room = disk(atlas, works)
    live = atlas.config["activations"]["max_live_stores"]
    lines = [
        "",
        f"Disk: {_bytes(room.stays)} stay; at most {_bytes(room.peak)} at once (activations.max_live_stores: {live}).",
        f"Time: {format_seconds(sum(time.elapsed for time in times.values()))} on {machine.name}; "
        f"{format_seconds(sum(time.gpu for time in times.values()))} with one {gpu} in it, if its data sheet's "
        f"{GPUS[gpu].products / 1e12:,.0f} TFLOP/s in bfloat16 are used to {GPU_EFFICIENCY['train_sae']:.0%} (training) or "
        f"{GPU_EFFICIENCY['save_activations']:.0%} (passes): assumed, not measured.",
    ]
    needed = memory(atlas, shape)
    each = ", ".join(f"{rule} {_bytes(need)}" for rule, need in needed.items())
    lines.append(f"Memory of a job without a GPU: {each}.")
    if found := remedies(needed):
        lines.append(f"That is more than the rules ask a cluster for: --set-resources {' '.join(found)}")
    costs = [cost for cost in read_costs(folder / "results" / "benchmarks", jobs(atlas)) if cost.measured]
    if costs:
        predicted = sum(times[cost.rule].elapsed * cost.measured / cost.jobs for cost in costs)
        took = sum(cost.wall * share(cost.rule, machine.cores) for cost in costs)
        lines.append(
            f"The jobs that ran here took {format_seconds(took)} of it; predicted for them: {format_seconds(predicted)}, "
            f"{predicted / took:.2f} times that."
        )
    lines.append(
        f"Probe: {machine.passes / 1e9:,.0f} GFLOP/s in {atlas.config['base_model']['dtype']} for the passes, "
        f"{machine.training / 1e9:,.0f} in float32 for training, memory "
        f"{_bytes(machine.memory)}/s, disk {_bytes(machine.writing)}/s written and {_bytes(machine.reading)}/s read; a job "
        f"starts in {min(machine.starts.values()):.1f} to {max(machine.starts.values()):.1f} s."
    )
    return Group(*(Text(line) for line in lines))


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e3:.1f} kB"
