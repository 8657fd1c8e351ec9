"""What an atlas will take, before anything runs: the time of every rule on this machine and with a GPU."""

from dataclasses import dataclass

from sae_atlas.plan.machine import GPU_START, Gpu, Machine
from sae_atlas.plan.work import Work

THREADS = {
    "save_activations": 8,
    "save_held_out": 8,
    "match_layers": 8,
    "distill": 8,
    "save_text": 8,
    "pretrain": 8,
    "fine_tune_lora": 8,
    "merge_lora": 8,
    "tokenize": 2,
}  # as the rules ask for; the others take one
START = {
    "prepare_model": "model",
    "tokenize": "model",
    "save_activations": "model",
    "save_held_out": "model",
    "evaluate_sae": "model",
    "shard_activations": "store",
    "train_sae": "torch",
    "match_layers": "torch",
    "distill": "model",
    "save_text": "model",
    "top_contexts": "model",
    "evolution": "torch",
    "contexts_of_matches": "torch",
    "explorer": "torch",
    "make_tokenizer": "model",
    "prepare_base": "model",
    "tokenize_domain": "model",
    "pretrain": "model",
    "fine_tune_lora": "model",
    "merge_lora": "model",
    "model_card": "light",
    "release": "light",
}  # kind of start (machine.STARTS); the others are figures and tables
# Share of the speed of one large product that the rule's own products reach: SmolLM2-135M and the default config on two cores
# with AVX-512. Masks, softmax, top-k and the sparse step's loops are in it. Training of language models: assumed.
EFFICIENCY = {
    "save_activations": 0.6,
    "save_held_out": 0.6,
    "evaluate_sae": 0.5,
    "train_sae": 0.33,
    "match_layers": 0.6,
    "save_text": 0.6,
    "top_contexts": 0.4,
    "evolution": 0.5,
    "contexts_of_matches": 0.4,
    "explorer": 0.6,
    "distill": 0.3,
    "pretrain": 0.3,
    "fine_tune_lora": 0.3,
}
GPU_EFFICIENCY = {"save_activations": 0.4, "save_held_out": 0.4, "evaluate_sae": 0.3, "train_sae": 0.25}  # assumed
TOKENISED = 0.4e6  # tokens/s a core
SCRIPT = 0.1  # s that Snakemake takes to start a script
DRAWN = 2.0  # s to draw a figure and write it twice


@dataclass(frozen=True)
class Estimate:
    """Seconds of a rule, summed over its jobs."""

    here: float
    elapsed: float  # of the whole machine: jobs that leave cores to others count by the share they take
    gpu: float  # one GPU, its jobs one after the other


def estimate(work: Work, machine: Machine, gpu: Gpu) -> Estimate:
    """Time of a rule's jobs on this machine with all its cores at work, and on `gpu` in this machine."""
    part = share(work.rule, machine.cores)
    drawn = DRAWN if work.rule.startswith("plot_") else 0.0
    start = work.jobs * (SCRIPT + machine.starts[START.get(work.rule, "figure")] + drawn)
    disk = work.written / machine.writing + work.read / machine.reading
    text = work.tokens / TOKENISED / machine.cores if work.rule == "tokenize" else 0.0
    busy = text + work.moved / machine.memory
    if work.products:
        speed = machine.training if work.rule == "train_sae" else machine.passes
        busy += work.products / speed / EFFICIENCY[work.rule]
    here = start + disk + busy / part
    if work.rule not in GPU_EFFICIENCY:
        return Estimate(here, here * part, here * part)
    on_gpu = work.products / gpu.products / GPU_EFFICIENCY[work.rule] + work.moved / gpu.memory
    return Estimate(here, here * part, start + work.jobs * GPU_START + disk + on_gpu)


def share(rule: str, cores: int) -> float:
    """Share of the cores that one job of the rule takes."""
    return min(THREADS.get(rule, 1), cores) / cores
