"""The plan before a run: the jobs are Snakemake's, the counts those of a case done by hand, the disk a bound that holds."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
import yaml
from test_plan_atlas import atlas
from transformers import AutoConfig, AutoModelForCausalLM

from sae_atlas.config.read import complete_config, read_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.plan.costs import benchmark
from sae_atlas.plan.disk import disk
from sae_atlas.plan.estimate import ON_GPU, Estimate, asked, estimate, minutes, threads, with_gpus
from sae_atlas.plan.jobs import jobs
from sae_atlas.plan.machine import GPUS, STARTS, Machine, probe
from sae_atlas.plan.shape import Shape, read_shape
from sae_atlas.plan.work import ROWS_AT_ONCE, Jobs, count
from sae_atlas.stages.atlas import Atlas
from workflow import ROOT, small, snakemake

MACHINE = Machine("a machine", 2, 1e11, 1e11, 1e10, 1e9, 1e9, dict.fromkeys(STARTS, 1.0))
H200 = GPUS["H200"]


NAMES = ["small", "features", "module", "config", "floors", "restoration", "lifecycle", "transcoders", "gemma-scope"]
LARGE = ["pythia-410m", "published-pythia-410m", "tiny-neox"]  # hundreds of jobs of each kind


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.long) for name in LARGE)])
def test_jobs_are_those_of_a_dry_run(tmp_path, name):
    compare_with_a_dry_run(tmp_path, ROOT / "config" / f"{name}.yaml", name)


@pytest.mark.parametrize("name", LARGE)
def test_jobs_of_two_layers_and_snapshots_are_those_of_a_dry_run(tmp_path, name):
    config = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    config["activations"]["layers"] = [0, 1]
    config["training"] |= {"tokens": config["training"]["snapshots"][1]}
    config["training"]["snapshots"] = config["training"]["snapshots"][:1]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    compare_with_a_dry_run(tmp_path, file, name)


def compare_with_a_dry_run(tmp_path, file, name):
    changes = {
        "small": {},
        "features": {"features": {"layers": [1]}},
        "module": {"activations.site": "gpt_neox.layers.{layer}.mlp.act"},  # whose directions do not flow
    }
    own = ("data/fragments.txt", "models/torso_restoration/best_model.pt") if name == "restoration" else ()
    for path in own:  # what the user gives: that it is there counts, not what it holds
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("a document")  # of a text its first one is read
    if name in changes:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(small(**changes[name])))
    stats = dict(re.findall(r"^(\w+) +(\d+)$", snakemake(tmp_path, file, "--dry-run").stdout, re.MULTILINE))
    counted = {rule: str(len(names)) for rule, names in jobs(Atlas(read_config(file))).items()}
    assert counted == {rule: number for rule, number in stats.items() if rule not in ("all", "total")}


def test_a_run_leaves_a_benchmark_of_every_job_and_of_no_other(finished):
    found = (finished.folder / "results" / "benchmarks").rglob("*.tsv")
    named = {benchmark(rule, name) for rule, names in jobs(Atlas(finished_config(finished))).items() for name in names}
    assert {str(file.relative_to(finished.folder / "results" / "benchmarks")) for file in found} == named


def finished_config(finished) -> dict:
    return read_config(finished.folder / "config.yaml")


def test_threads_grow_with_the_products_and_a_toy_runs_anywhere():
    tiny, larger = (replace(work()["save_activations"], matmul_flops=flops) for flops in (1e9, 1e15))
    assert (threads(tiny), threads(larger), threads(work()["train_sae"])) == (1, 8, 1)


def test_the_rules_that_ask_for_a_gpu_are_those_that_are_timed_on_one():
    text = "".join(file.read_text() for file in (ROOT / "workflow" / "rules").glob("*.smk"))
    assert set(re.findall(r"rule (\w+):(?:(?!rule \w+:).)*?gpu=GPUS", text, re.DOTALL)) == set(ON_GPU)


def test_memory_counts_the_tokens_that_the_stages_work_on_at_once():
    from sae_atlas.activations.save import ROWS_PER_CHUNK
    from sae_atlas.features import top_contexts
    from sae_atlas.kernels.threads import MICRO_BATCH
    from sae_atlas.metrics import active

    at_once = {
        "saved": ROWS_PER_CHUNK,
        "step": MICRO_BATCH,
        "measured": active.TOKENS_AT_ONCE,
        "contexts": top_contexts.TOKENS_AT_ONCE,
    }
    assert at_once == ROWS_AT_ONCE


def test_the_memory_of_a_wide_sae_by_hand():
    """131,072 latents on 4,096 dimensions: weights of 2^32 bytes, averages and gradients three times that, int8 an eighth."""
    wide = replace(SHAPE, d_model=4096)
    topk = {"architecture": "topk", "expansion": 32, "k": 32, "batch": 128}
    relu = {"architecture": "relu", "expansion": 32, "l1": {"coefficient": 0.01}, "batch": 128}
    needed = memory(wide, topk=topk)
    assert needed["train_sae"] == pytest.approx(4 * 2**32 + 2**29 + 12 * 256 * 131072, rel=0.03)
    assert needed["evaluate_sae"] > 5 * 2**32  # three snapshots, and two of them compared
    assert memory(wide, relu=relu)["train_sae"] > 8 * 2**32  # while many latents are active
    pursuit = memory(wide, pursuit=topk | {"architecture": "matching_pursuit"})
    of_all = 4 * 131072**2  # products of all latents with each other, and what 32 latents a token move in the decoder
    assert pursuit["train_sae"] - needed["train_sae"] == pytest.approx(of_all + 128 * 32 * 4 * 4096, rel=1e-6)
    assert pursuit["evaluate_sae"] - needed["evaluate_sae"] == pytest.approx(3 * of_all)
    assert asked(atlas(recipes={"topk": topk}), wide)["train_sae"][0] > needed["train_sae"] / 1e6
    assert asked(atlas(), SHAPE)["train_sae"] < (1100, 15)


def memory(shape: Shape, **recipes: dict) -> dict[str, float]:
    return {each.rule: each.memory for each in count(atlas(recipes=recipes), shape)}


def test_a_job_asks_for_time_by_what_it_does():
    """A window twice as long asks for twice the minutes above the least, and no job for more than a day."""
    large = Shape(24, 1024, 50304, 12_582_912, 405_334_016, 2)
    grid = atlas(**{"training.tokens": "9M", "corpus.tokens": "100M", "training.snapshots": ["3M"]})
    works = [
        Jobs(grid, large).work("train_sae", {"recipe": "topk", "layer": 0, "snapshot": end}) for end in ("3M", "9M")
    ]
    short, long = (minutes(each, on_gpu=False) for each in works)
    assert long - 12 == pytest.approx(2 * (short - 12), rel=0.02) and short > 60
    assert minutes(works[1], on_gpu=True) < short
    longer = atlas(**{"training.tokens": "900M", "corpus.tokens": "1B"})
    assert asked(longer, large)["train_sae"][1] == 24 * 60


SHAPE = Shape(n_layers=4, d_model=32, vocabulary=257, block_weights=1000, parameters=5000, value_bytes=4)


def work(**changes) -> dict:
    return {each.rule: each for each in count(atlas(**changes), SHAPE)}


def test_a_forward_pass_by_hand():
    """2 FLOPs per weight, 4 x context x d_model of attention per block, 2 x vocabulary x d_model for the logits."""
    assert SHAPE.forward(3, context=32, head=False) == 3 * (2 * 1000 + 4 * 32 * 32)
    assert SHAPE.forward(0, context=32, head=True) == 2 * 257 * 32


def test_the_small_atlas_by_hand():
    """3 layers (the last is block 2), 3k tokens, 2 recipes of 128 latents on 32 dimensions."""
    found = work()
    assert found["save_activations"].tokens == 3000
    assert found["save_activations"].matmul_flops == 3000 * SHAPE.forward(3, 32, False)
    assert found["shard_activations"].written == 3000 * 3 * 32 * 2
    halved = work(**{"activations.dtype": "int8"})
    assert halved["shard_activations"].written == 3000 * 3 * 32
    assert halved["save_activations"].written == found["save_activations"].written
    assert found["train_sae"].tokens == 3000 * 3 * 2
    topk = 9000 * (2 * 128 * 32 + 6 * 4 * 32)  # the encoder's product, and four active latents
    relu = 9000 * (2 * 128 * 32 + 6 * 0.05 * 128 * 32)
    assert found["train_sae"].matmul_flops == pytest.approx(topk + relu)


@pytest.mark.parametrize(
    "rule", ["save_activations", "shard_activations", "train_sae", "save_held_out", "evaluate_sae"]
)
def test_a_rule_takes_more_where_more_is_asked(rule):
    more = {"training.tokens": "6k", "evaluation.tokens": "2k", "evaluation.patched_tokens": "1k"}
    (before, after) = (estimate(found[rule], MACHINE, H200).here for found in (work(), work(**more)))
    assert after > before


def test_fewer_layers_a_pass_cost_passes_and_save_disk():
    less = {"activations.layers_per_pass": 1, "activations.max_live_stores": 1}
    (all_at_once, one_by_one) = work(), work(**less)
    assert one_by_one["save_activations"].matmul_flops > all_at_once["save_activations"].matmul_flops
    assert disk(atlas(**less), list(one_by_one.values())).peak < disk(atlas(), list(all_at_once.values())).peak


def test_contexts_are_counted_where_they_are_asked_for():
    """1k tokens of blocks 0 to 2, and the encoders of two recipes of 128 latents; held-out text needs no pass.

    Layer 1 is next to both: its activations are read, and it has matches of each, as two earlier snapshots have.
    """
    features = {"layers": [0, 2], "tokens": "1k"}
    found = work(features=features)
    assert found["save_text"].matmul_flops == 1000 * SHAPE.forward(3, 32, False)
    assert found["save_text"].written == 1000 * 3 * 32 * 2
    assert found["top_contexts"].matmul_flops == 2 * 2 * (1000 * 2 * 128 * 32 + 128 * 2 * 257 * 32)
    assert found["contexts_of_matches"].matmul_flops == 2 * 2 * 3 * 1000 * 2 * 128 * 32
    assert "top_contexts" not in work()
    held_out = work(features={"split": "held_out"})
    assert "save_text" not in held_out and held_out["top_contexts"].jobs == 6
    room = disk(atlas(features=features), list(found.values()))
    stay = room.stays - disk(atlas(), list(work().values())).stays
    said = [rule for rule in found if rule not in work() and rule != "save_text"]
    assert stay == pytest.approx(sum(found[rule].written for rule in said)) and stay > 0
    assert room.peak - disk(atlas(), list(work().values())).peak == pytest.approx(stay + 1000 * 3 * 32 * 2)


def test_what_is_said_of_a_real_layer_takes_what_was_measured():
    """Layers 7 and 12 of SmolLM2-135M, TopK 32, beside a third: megabytes on disk after a run, within a quarter."""
    features = {"layers": [0], "tokens": "40k", "contexts": 10, "window": 24}
    recipe = {"architecture": "topk", "expansion": 8, "k": 32, "batch": 128}
    grid = atlas(features=features, recipes={"topk": recipe}, **{"corpus.tokens": "80k"})
    real = Jobs(grid, Shape(30, 576, 49152, 3_538_944, 134_515_008, 2))
    written = real.work("top_contexts", {"recipe": "topk", "layer": 0}).written / 1e6
    contexts = (4.88 + 7.76 + 1.05 + 2.32 + 5.15 + 8.10 + 1.04 + 2.32) / 2
    matches, shown = 1.81, (3.63 - 0.15) / 2
    assert written == pytest.approx(contexts + matches + shown, rel=0.25)


def test_what_stays_on_disk_is_what_was_counted(finished):
    """Within a quarter: metadata, biases and figures are not counted, and these weights are small."""
    grid = Atlas(finished_config(finished))
    shape = read_shape(grid.config["base_model"], finished.folder / "results" / "base_model" / "model")
    there = sum(
        file.stat().st_blocks and file.stat().st_size
        for folder in ("checkpoints", "corpus", "held_out.zarr")
        for file in (finished.folder / "results" / folder).rglob("*")
        if file.is_file()
    )
    works = {each.rule: each.written for each in count(grid, shape)}
    counted = disk(grid, count(grid, shape)).stays - works["prepare_model"] - works["model_card"]
    assert there == pytest.approx(counted, rel=0.25)


@pytest.mark.parametrize("name", ["package", "random"])
def test_sizes_are_known_before_the_model_is_there(tmp_path, name):
    """SmolLM2-135M: 30 blocks of 576 dimensions; 134,515,008 parameters, embedding counted once."""
    config = small()["base_model"] if name == "random" else {"source": "package", "package": "smollm2-135m-instruct"}
    shape = read_shape(config, tmp_path)
    if name == "package":
        assert (shape.n_layers, shape.d_model, shape.vocabulary) == (30, 576, 49152)
        assert (shape.parameters, shape.value_bytes) == (134_515_008, 2)
        assert shape.block_weights == 576 * (576 + 192 + 192 + 576) + 3 * 576 * 1536
    else:
        assert (shape.n_layers, shape.d_model, shape.vocabulary) == (4, 32, 257)


@pytest.mark.parametrize(
    "family", ["gpt2", "gpt_neox", "bloom", "phi", "llama", "falcon", "gemma2", "mixtral", "qwen3_moe", "starcoder2"]
)
def test_sizes_read_from_a_config_are_those_of_the_model(tmp_path, family):
    """Within half a percent of the weights in products, and one percent of all: biases and positions are not counted."""
    config = AutoConfig.for_model(family)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = read_shape({"source": "local", "path": str(tmp_path)}, tmp_path / "not-prepared")
    blocks = max((module for module in model.modules() if isinstance(module, torch.nn.ModuleList)), key=len)
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    of_experts = config.num_experts_per_tok / experts if experts else 1.0  # as many of them a token goes through
    products = sum(
        weight.numel() * (of_experts if "experts" in name else 1)
        for name, weight in blocks[0].named_parameters()
        if weight.ndim > 1
    )
    assert (shape.n_layers, shape.vocabulary) == (len(blocks), config.vocab_size)
    assert shape.block_weights == pytest.approx(products, rel=0.005)
    assert shape.parameters == pytest.approx(sum(weight.numel() for weight in model.parameters()), rel=0.01)


@pytest.mark.parametrize(
    ("family", "sizes", "parameters"),
    [
        ("deepseek_v2", {"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6}, 14.8e9),
        ("ernie4_5_moe", {"moe_num_experts": 64, "moe_num_shared_experts": 2, "moe_k": 6}, 14.8e9),
    ],
)
def test_experts_count_under_all_their_names(tmp_path, family, sizes, parameters):
    config = {"model_type": family, "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16}
    config |= {"moe_intermediate_size": 1408, "intermediate_size": 10944, "vocab_size": 102400, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = read_shape({"source": "local", "path": str(tmp_path)}, tmp_path / "not-prepared")
    assert shape.parameters == pytest.approx(parameters, rel=0.1)
    assert shape.block_weights == 4 * 2048**2 + 64 * 2048 + 8 * 3 * 2048 * 1408  # six experts of a token, two of all


def test_a_random_model_counts_its_unembedding():
    """GPT-NeoX does not tie it to the embedding: Pythia-410M has 405,334,016 parameters."""
    config = read_config(ROOT / "config" / "scale.yaml")["base_model"]
    assert read_shape(config, "not-prepared").parameters == pytest.approx(405_334_016, rel=0.01)


def test_a_config_without_sizes_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(AtlasError, match="does not say width, blocks and vocabulary"):
        read_shape({"source": "local", "path": str(tmp_path)}, tmp_path / "not-prepared")


@pytest.mark.parametrize("name", ["lifecycle", "floors"])
def test_language_models_that_are_trained_take_time(name):
    atlas = Atlas(read_config(ROOT / "config" / f"{name}.yaml"))
    trained = {work.rule: estimate(work, MACHINE, H200).here for work in count(atlas, SHAPE)}
    wanted = ("pretrain", "fine_tune_lora") if name == "lifecycle" else ("distill",)
    assert all(trained[rule] > 2 for rule in wanted)  # more than the start of a job


def test_jobs_are_told_where_nothing_else_is_known():
    found = {each.rule: each for each in count(atlas(), None)}
    assert found["train_sae"].jobs == 18 and found["train_sae"].tokens == 18000
    assert not any(
        each.matmul_flops or each.written or each.bytes_moved or each.read or each.memory for each in found.values()
    )


def test_twice_the_cores_halve_what_shares_them():
    one = work()["train_sae"]
    fast = replace(MACHINE, starts=dict.fromkeys(STARTS, 0.0), writing=math.inf, reading=math.inf)
    (two, four) = (estimate(replace(one, jobs=0), replace(fast, cores=cores), H200) for cores in (2, 4))
    assert four.here == pytest.approx(2 * two.here)  # a job has one thread: a quarter of the machine in place of half
    assert four.elapsed == pytest.approx(two.elapsed)


def test_what_a_machine_with_more_gpus_waits_for():
    trained, saved = Estimate(900, 900, 820, 20), Estimate(300, 300, 250, 50)
    sharded, drawn = Estimate(80, 40, 40, 30), Estimate(10, 10, 10, 0)
    times = {"train_sae": trained, "save_activations": saved, "shard_activations": sharded, "plot_dead_latents": drawn}
    assert with_gpus(times, 1) == (1000, "the GPU, 80% of it for train_sae")
    assert with_gpus(times, 4) == (250, "the GPUs, 80% of it for train_sae")
    assert with_gpus(times, 16) == (100, "the disk, 50% of it for save_activations")
    slow = times | {"plot_dead_latents": Estimate(160, 160, 160, 0)}
    assert with_gpus(slow, 8) == (200, "the cores, 80% of it for plot_dead_latents")


def test_the_probe_finds_a_machine(tmp_path):
    machine = probe(tmp_path, "float32", 1)
    assert (
        machine.passes > 1e8
        and machine.training > 1e8
        and machine.memory > 1e8
        and machine.writing > 1e6
        and machine.reading > 1e6
    )
    assert 0 < machine.starts["light"] < machine.starts["model"] < 120
    assert not list(tmp_path.iterdir())


def test_pairs_double_what_a_store_holds_and_not_the_text_that_is_encoded():
    of_pairs = {
        "activations.site": "mlp_in",
        "activations.target": "mlp_out",
        "features": {"layers": [1], "tokens": "1k"},
    }
    of_saes = {name: value for name, value in of_pairs.items() if name != "activations.target"}
    rules = ("save_activations", "shard_activations", "save_text")
    pairs, saes = (
        {work.rule: work.written for work in count(Atlas(complete_config(small(**changes), "small")), SHAPE)}
        for changes in (of_pairs, of_saes)
    )
    assert [pairs[rule] / saes[rule] for rule in rules] == [2, 2, 1]
