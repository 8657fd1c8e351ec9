"""The plan as a table for the terminal (`make plan`): what will be done, how long it takes, and what a run took."""

from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sae_atlas.config.read import read_config
from sae_atlas.io.errors import AtlasError, nearest
from sae_atlas.io.sizes import format_rounded, format_seconds, grid_words
from sae_atlas.plan.costs import read_costs
from sae_atlas.plan.disk import disk
from sae_atlas.plan.estimate import GPU_EFFICIENCY, asked, estimate, share, with_gpus
from sae_atlas.plan.jobs import jobs
from sae_atlas.plan.machine import GPUS, Machine, probe
from sae_atlas.plan.shape import Shape, read_shape
from sae_atlas.plan.site_check import check_config
from sae_atlas.plan.work import Work, count
from sae_atlas.stages.atlas import Atlas

LISTED = 6  # rules whose jobs ask for most memory
NODE = 8  # GPUs of a large machine


def show_plan(config: str | Path, folder: str | Path, gpu: str, cores: int | None) -> None:
    """Print the plan of `config` for a run in `folder`. gpu: one of machine.GPUS.

    Raises AtlasError for a mistake in the config or an unknown GPU. Where the base model's sizes cannot be had, only jobs
    and tokens are printed, and why.
    """
    if gpu not in GPUS:
        raise AtlasError(f"--gpu: {gpu!r} is not in the table; {nearest(gpu, GPUS)}")
    values = read_config(config, folder)
    check_config(values, str(config))
    atlas, folder = Atlas(values), Path(folder)
    console = Console()
    saes = len(atlas.layers) * sum(len(atlas.snapshots_of(recipe)) for recipe in atlas.recipes)
    grid = grid_words(len(atlas.recipes), len(atlas.layers), len(atlas.snapshots))
    console.print(f"{config}: {saes:,} SAEs, {grid}", style="bold", markup=False, highlight=False)
    shape = machine = None
    try:
        shape = read_shape(atlas.config["base_model"], folder / "results" / "base_model" / "model")
        machine = probe(folder, atlas.config["base_model"]["dtype"], cores)
        below = _below(atlas, shape, machine, folder, gpu)
    except AtlasError as error:
        below = [f"Arithmetic, disk and time are unknown. {error}"]
    console.print(plan_table(atlas, shape, machine, folder, gpu, console.width))
    for line in below:
        console.print(line, markup=False, highlight=False)


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
            row["FLOPs"] = f"{work.matmul_flops:.2g}" if work.matmul_flops else ""
            row["written"] = _bytes(work.written) if work.written else ""
            row |= {"time\nhere": format_seconds(time.here), f"on\n{gpu}": format_seconds(time.gpu)}
            if ran:
                row["took"] = format_seconds(cost.wall) if cost.measured else ""
                compared = cost.wall and f"{time.here * cost.measured / cost.jobs / cost.wall:.2f}"
                row["here /\ntook"] = compared or ""
        rows.append(row)
    widths = {head: max(map(len, [*head.splitlines(), *(row[head] for row in rows)])) for head in rows[0]}
    left_out = []
    for head in ("FLOPs", "written", "tokens", f"on\n{gpu}"):  # the least important first; two spaces between columns
        if head in widths and sum(widths.values()) + 2 * (len(widths) - 1) > width:
            widths.pop(head)
            left_out.append(head.replace("\n", " "))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in widths:
        number = head != "rule"
        table.add_column(head, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        table.add_row(*map(row.get, widths))
    note = f"No room in {width} columns for: {', '.join(left_out)}. A wider terminal, or COLUMNS=120, shows them."
    return Group(table, *([Text(note, style="dim")] if left_out else []))


def _below(atlas: Atlas, shape: Shape, machine: Machine, folder: Path, gpu: str) -> list[str]:
    """Lines under the table."""
    work_of: dict[str, Work] = {work.rule: work for work in count(atlas, shape)}
    times = {rule: estimate(work, machine, GPUS[gpu]) for rule, work in work_of.items()}
    room, live = disk(atlas, list(work_of.values())), atlas.config["activations"]["max_live_stores"]
    asking = sorted(((*most, rule) for rule, most in asked(atlas, shape).items()), reverse=True)
    each = ", ".join(f"{rule} {_bytes(mb * 1e6)}, {format_seconds(60 * least)}" for mb, least, rule in asking[:LISTED])
    lines = [
        "",
        f"Disk: {_bytes(room.stays)} stay; at most {_bytes(room.peak)} at once (activations.max_live_stores: {live}).",
        f"Time: {format_seconds(sum(time.elapsed for time in times.values()))} on {machine.name}.",
        *(_with_gpus(times, gpu, gpus) for gpus in (1, NODE)),
        f"Assumed, not measured: of its data sheet's {GPUS[gpu].flops / 1e12:,.0f} TFLOP/s in bfloat16, training uses "
        f"{GPU_EFFICIENCY['train_sae']:.0%} and passes {GPU_EFFICIENCY['save_activations']:.0%}.",
        f"A job asks a cluster for memory and time, at most: {each}; all others for less memory.",
    ]
    costs = [cost for cost in read_costs(folder / "results" / "benchmarks", jobs(atlas)) if cost.measured]
    if costs:
        predicted = sum(times[cost.rule].elapsed * cost.measured / cost.jobs for cost in costs)
        took = sum(cost.wall * share(work_of[cost.rule], machine.cores) for cost in costs)
        times_that = f", {predicted / took:.2f} times that" if took else ""
        compared = f"predicted for them: {format_seconds(predicted)}{times_that}"
        lines.append(f"The jobs that ran here took {format_seconds(took)} of it; {compared}.")
    starts = machine.starts.values()
    return [
        *lines,
        f"Probe: {machine.passes / 1e9:,.0f} GFLOP/s in {atlas.config['base_model']['dtype']} for the passes, "
        f"{machine.training / 1e9:,.0f} in float32 for training, memory {_bytes(machine.memory)}/s, disk "
        f"{_bytes(machine.writing)}/s written and {_bytes(machine.reading)}/s read; a job starts in {min(starts):.1f} to "
        f"{max(starts):.1f} s.",
    ]


def _with_gpus(times: dict, gpu: str, gpus: int) -> str:
    seconds, slowest = with_gpus(times, gpus)
    return f"With {gpus} {gpu} in it: {format_seconds(seconds)} at least; what takes longest is {slowest}."


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e3:.1f} kB"
