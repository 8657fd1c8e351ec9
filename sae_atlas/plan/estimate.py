"""What a job's work takes: time on this machine and with a GPU, and what its rule asks a cluster for."""

import math
from dataclasses import dataclass

from sae_atlas.io.devices import gpus_for
from sae_atlas.plan.jobs import job_cells
from sae_atlas.plan.machine import GPU_START, GPUS, SLOW_NODE, Gpu, Machine
from sae_atlas.plan.shape import Shape
from sae_atlas.plan.work import Jobs, Work

MOST_THREADS = 8
THREAD_FLOPS = 2e12  # that are worth a thread: a minute of a core
MINUTES = 10, 24 * 60  # that a job asks for, at least and at most: few clusters let a job run for longer
MARGIN = 3  # times as long as a job takes on a slow node
AROUND = 0.5e9  # bytes: two processes of Snakemake stand around every job of a cluster
# Share of the speed of one large product that the rule's own products reach: SmolLM2-135M and the default config on two cores
# with AVX-512; masks, softmax and top-k are in it. `train_sae`: of the speed of a step. Training of language models: assumed.
EFFICIENCY = {"save_activations": 0.6, "save_held_out": 0.6, "save_text": 0.6, "match_layers": 0.6, "explorer": 0.6}
EFFICIENCY |= {"finetune_sae": 0.5, "replace_layers": 0.5, "match_seeds": 0.6}
EFFICIENCY |= {"train_sae": 1.0, "evaluate_sae": 0.5, "evolution": 0.5, "top_contexts": 0.5, "contexts_of_matches": 0.6}
EFFICIENCY |= {"save_task_text": 0.6, "save_words": 0.6, "measure_tasks": 0.4}
EFFICIENCY |= {"known_truth": 0.5, "distill": 0.3, "pretrain": 0.3, "fine_tune_lora": 0.3}
PASSES = (
    "save_activations",
    "save_held_out",
    "save_text",
    "save_task_text",
    "save_words",
    "distill",
    "pretrain",
    "fine_tune_lora",
)
ON_GPU = (
    *PASSES,
    "train_sae",
    "finetune_sae",
    "evaluate_sae",
    "known_truth",
    "measure_tasks",
    "replace_layers",
    "top_contexts",
    "contexts_of_matches",
)
GPU_EFFICIENCY = dict.fromkeys(ON_GPU, 0.3)  # assumed
GPU_EFFICIENCY |= {"save_activations": 0.4, "save_held_out": 0.4, "train_sae": 0.25}
OF_TEXT = ("tokenize", "tokenize_domain")
# What a job imports before it works (machine.STARTS); the others are figures and tables.
KINDS = {
    "model": (
        *PASSES,
        *OF_TEXT,
        "prepare_model",
        "prepare_base",
        "merge_lora",
        "finetune_sae",
        "evaluate_sae",
        "replace_layers",
        "top_contexts",
    ),
    "torch": (
        "known_truth",
        "floors",
        "train_sae",
        "import_sae",
        "import_start",
        "match_layers",
        "match_seeds",
        "evolution",
        "contexts_of_matches",
        "explorer",
        "measure_tasks",
        "index",
    ),
    "light": ("shard_activations", "model_card", "release"),
}
TOKENISED = 0.4e6  # tokens/s a core
SCRIPT = 0.1  # s that Snakemake takes to start a script
DRAWN = 2.0  # s to draw a figure and write it twice


@dataclass(frozen=True)
class Estimate:
    """Seconds of a rule, summed over its jobs."""

    here: float
    elapsed: float  # of the whole machine: jobs that leave cores to others count by the share they take
    gpu: float  # one GPU, its jobs one after the other
    disk: float  # of `gpu`: reading and writing, which no further GPU makes faster


def estimate(work: Work, machine: Machine, gpu: Gpu) -> Estimate:
    """Time of a rule's jobs on this machine with all its cores at work, and on `gpu` in this machine."""
    rule, part = work.rule, share(work, machine.cores)
    kind = next((kind for kind, rules in KINDS.items() if rule in rules), "figure")
    drawn = DRAWN if rule.startswith("plot_") else 0.0
    start = work.jobs * (SCRIPT + machine.starts[kind] + drawn)
    disk = work.written / machine.writing + work.read / machine.reading
    busy = work.tokens / TOKENISED / machine.cores if rule in OF_TEXT else 0.0
    busy += work.bytes_moved / machine.memory
    if work.matmul_flops:
        speed = machine.training if rule == "train_sae" else machine.passes
        busy += work.matmul_flops / speed / EFFICIENCY[rule]
    here = start + disk + busy / part
    if rule not in GPU_EFFICIENCY:
        return Estimate(here, here * part, here * part, disk)
    on_gpu = work.matmul_flops / gpu.flops / GPU_EFFICIENCY[rule] + work.bytes_moved / gpu.memory
    return Estimate(here, here * part, start + work.jobs * GPU_START + disk + on_gpu, disk)


def with_gpus(times: dict[str, Estimate], gpus: int) -> tuple[float, str]:
    """Seconds that a run takes at least with so many GPUs in this machine, by its rules' times; and what it waits for most.

    GPUs, cores and disk work side by side, each at its own jobs: the one that has most to do decides.
    """
    on_gpus = {rule: (time.gpu - time.disk) / gpus for rule, time in times.items() if rule in GPU_EFFICIENCY}
    on_cores = {rule: time.elapsed for rule, time in times.items() if rule not in GPU_EFFICIENCY}
    disk = {rule: time.disk for rule, time in times.items()}
    asked = {"GPU" if gpus == 1 else "GPUs": on_gpus, "cores": on_cores, "disk": disk}
    slowest = max(asked, key=lambda part: sum(asked[part].values()))
    seconds = sum(asked[slowest].values())
    rule = max(asked[slowest], key=asked[slowest].get)
    return seconds, f"the {slowest}, {asked[slowest][rule] / seconds:.0%} of it for {rule}"


def threads(work: Work) -> int:
    """Threads of a job: more than one where it has minutes of products to share out."""
    if work.rule not in (*PASSES, "match_layers", "match_seeds"):
        return 2 if work.rule in OF_TEXT else 1
    return max(1, min(MOST_THREADS, round(work.matmul_flops / work.jobs / THREAD_FLOPS)))


def share(work: Work, cores: int) -> float:
    """Share of the cores that one job of the rule takes."""
    return min(threads(work), cores) / cores


def asked(atlas, shape: Shape) -> dict[str, tuple[int, int]]:
    """Rule -> the most memory (MB) and minutes that its jobs ask a cluster for, of the rules that ask by what they do."""
    jobs = Jobs(atlas, shape)
    work_of = {rule: [jobs.work(rule, cell) for cell in cells] for rule, cells in job_cells(atlas).items()}
    on_gpu = gpus_for(atlas.config["device"]) > 0
    return {
        rule: (max(map(memory_mb, each)), max(minutes(work, on_gpu) for work in each))
        for rule, each in work_of.items()
        if each[0].memory
    }


def memory_mb(work: Work) -> int:
    """MB (10^6 bytes) that a job asks for."""
    return math.ceil((work.memory + AROUND) / 1e6)


def minutes(work: Work, on_gpu: bool) -> int:
    """Minutes that a job asks for: what it takes on a slow node, or with a small GPU, and a margin."""
    time = estimate(work, SLOW_NODE, GPUS["L4"])
    seconds = time.gpu if on_gpu and work.rule in GPU_EFFICIENCY else time.here
    shortest, longest = MINUTES
    return min(longest, shortest + math.ceil(MARGIN * seconds / 60))
