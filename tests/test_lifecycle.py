"""Models from scratch, adapters and merges: what they are, that they resume to the bit, and what is refused."""

import json
import shutil

import lifecycle as life
import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM

import sae_atlas
from sae_atlas.base_models.adapters import META, read_meta
from sae_atlas.base_models.from_scratch import model_sizes, random_model
from sae_atlas.base_models.load import load
from sae_atlas.base_models.prepare import named_tokenizer, prepare
from sae_atlas.corpus import open_corpus
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json
from sae_atlas.lifecycle import fit as fitting
from sae_atlas.lifecycle import lora
from sae_atlas.sites.hooks import capture
from sae_atlas.training.interruption import EXIT_CODE, Interruption

TOKENS = torch.arange(1, 41).reshape(2, 20)


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox"])
def family(request, tmp_path_factory):
    """(folder, pretrained, adapter, merged) of an architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    life.texts(folder)
    life.texts(folder, ("horse",), "horses")
    made = life.pretrained(folder, request.param)
    name = made.name.replace("pets-pretrain", "pets-to-horses-lora")
    adapter = life.tuned(folder, made, name)
    return folder, made, adapter, life.merged(folder, made, adapter, name.replace("lora", "merged"))


@pytest.fixture
def own(family, tmp_path):
    """A copy of the three folders, to be damaged."""
    folder, *paths = family
    shutil.copytree(folder / "models", tmp_path / "models")
    return [tmp_path / path.relative_to(folder) for path in paths]


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def test_training_learns_and_keeps_best_and_last(family):
    folder, made, adapter, _ = family
    for path in (made, adapter):
        meta = read_meta(path)
        losses = [row["val_loss"] for row in meta["curve"]]
        assert meta["best_val_loss"] == min(losses) and meta["last_val_loss"] == losses[-1]
        assert [row["step"] for row in meta["curve"]][-1] == meta["last_iter"]
        best, last = (torch.load(path / f"{stem}.pt", weights_only=True) for stem in ("ckpt", "last"))
        assert (best["iter"], last["iter"]) == (meta["iter"], meta["last_iter"])
        assert best["best_val_loss"] == meta["best_val_loss"]
    assert read_meta(made)["curve"][0]["val_loss"] - read_meta(made)["best_val_loss"] > 0.1
    assert read_meta(adapter)["best_val_loss"] < read_meta(adapter)["val_loss_before"]
    model = sae_atlas.load_base_model(made, device="cpu")
    source = open_corpus(folder / "pets.zarr")
    rounding = 8 * life.CONTEXT * torch.finfo(torch.float32).eps  # of float32 sums over the tokens of a pass
    best = read_meta(made)["best_val_loss"]
    assert fitting.held_out_loss(model, source, 8) == pytest.approx(best, rel=rounding)
    assert abs(read_meta(made)["curve"][0]["val_loss"] / best - 1) > 100 * rounding  # that of other weights is not it


def test_the_folder_is_transformers_own_and_checkpoints_hold_the_same(family):
    _, made, adapter, whole = family
    for path in (made, whole):
        model = AutoModelForCausalLM.from_pretrained(path)
        stored = torch.load(path / "ckpt.pt", weights_only=True)
        assert stored["model_args"] == read_json(path / "model_args.json")
        assert stored["config"] == read_json(path / "config.json")["training"]
        assert all(torch.equal(value, stored["model"][name]) for name, value in model.state_dict().items())
        assert sum(weight.numel() for weight in model.parameters()) == read_meta(path)["parameters"]
    kept = torch.load(adapter / "ckpt.pt", weights_only=True)
    weights = load_file(adapter / "adapters" / "adapter_model.safetensors")
    assert kept["is_lora"] and set(kept["model"]) == set(weights)
    assert all(torch.equal(weights[name], value) for name, value in kept["model"].items())


def test_a_merge_is_base_and_adapter(family):
    _, made, adapter, whole = family
    base, tuned, merged = (
        logits(model.double())
        for model in (
            sae_atlas.load_base_model(made, device="cpu"),
            sae_atlas.load_base_model(made, adapter=adapter, device="cpu"),
            sae_atlas.load_base_model(whole, device="cpu"),
        )
    )
    assert (merged - tuned).abs().max() < 1e-5 < 1e-3 < (tuned - base).abs().max()
    assert read_meta(whole)["merge_difference"] < 1e-5
    for path in (adapter, adapter / "adapters"):
        again = sae_atlas.load_base_model(made, adapter=path, device="cpu")
        assert torch.equal(logits(again.double()), tuned)
    assert torch.equal(logits(sae_atlas.load_base_model(adapter, device="cpu").double()), tuned)


def test_the_adapter_is_the_formula(family):
    """Merged weight = W + alpha / rank B A, by hand for one matrix."""
    _, made, adapter, whole = family
    weights = load_file(adapter / "adapters" / "adapter_model.safetensors")
    name = next(name for name in weights if name.endswith("lora_A.weight"))
    update = 2.0 * weights[name.replace("lora_A", "lora_B")] @ weights[name]
    parameter = name.removeprefix("base_model.model.").replace(".lora_A", "")
    before, after = (load_file(path / "model.safetensors")[parameter] for path in (made, whole))
    update = update.T if "transformer.h" in parameter else update  # GPT-2 keeps its matrices the other way round
    torch.testing.assert_close(after - before, update, atol=1e-6, rtol=0)
    assert update.abs().max() > 1e-3


def test_the_chain_reads_all_three(family):
    folder, made, adapter, whole = family
    read = []
    for source, path in (("pretrain", made), ("lora", adapter), ("merged", whole)):
        model, found = load(life.prepared(folder, path, source), "float32", device="cpu")
        assert (found["n_layers"], found["d_model"], found["source"]) == (2, 32, f"{source} {path.name}")
        with capture(model, "resid_post", [1]) as activations:
            model(TOKENS, use_cache=False)
        read.append(activations[1])
    torch.testing.assert_close(read[1], read[2], atol=1e-4, rtol=1e-4)
    assert (read[0] - read[1]).abs().max() > 1e-3


def test_others_models_are_tuned_under_fine_tuned(family, tmp_path):
    """A Llama that no rule of ours trained."""
    horses, source = family[0] / "horses.zarr", tmp_path / "results" / "provenance.json"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    random = {"source": "random", "architecture": "llama", "sizes": sizes, "seed": 0, "tokenizer": "bytes"}
    prepare(source, **random)
    adapter, whole = (tmp_path / "models" / "fine_tuned" / f"tiny-llama_horses_1k{end}" for end in ("_lora", ""))
    settings = {"name": adapter.name, "base": "tiny-llama", "seed": 0, "lora": life.LORA, "text": "horses"}
    settings["fit"] = life.FIT | {"tokens": 1000}
    with pytest.raises(AtlasError, match="an adapter's name ends in _lora and a merge's does not"):
        lora.fine_tune_lora(source, horses, whole / META, **settings)
    lora.fine_tune_lora(source, horses, adapter / META, **settings)
    lora.merge_lora(source, adapter / META, horses, whole / META, whole.name)
    tuned, merged = (logits(sae_atlas.load_base_model(path).double()) for path in (adapter, whole))
    assert (tuned - merged).abs().max() < 1e-5
    assert read_json(adapter / "adapters" / "adapter_config.json")["target_modules"]
    assert read_meta(whole)["base"]["source"] == "random llama, seed 0"


def test_a_run_that_is_cut_off_goes_on_to_the_same_bits(family, tmp_path, monkeypatch):
    """Told to stop between two validations, and again in the second pass through the text."""
    folder, made, adapter, _ = family
    for file in ("tokenizer.json", "pets.zarr", "horses.zarr", "tokenizer"):
        (tmp_path / file).symlink_to(folder / file)
    check, calls, stops = Interruption.check, [], [5, 22]

    def stop(self, state):
        calls.append(1)
        if len(calls) in stops:
            self.told = 15
        check(self, state)

    monkeypatch.setattr(Interruption, "check", stop)
    architecture = read_json(made / "model_args.json")["architecture"]
    for _ in range(2):
        with pytest.raises(SystemExit) as told:
            life.pretrained(tmp_path, architecture)
        assert told.value.code == EXIT_CODE
    again = life.pretrained(tmp_path, architecture)
    stops[:] = [len(calls) + 3]
    with pytest.raises(SystemExit):
        life.tuned(tmp_path, again, adapter.name)
    tuned = life.tuned(tmp_path, again, adapter.name)
    for path, other in ((again, made), (tuned, adapter)):
        ours, theirs = read_meta(path), read_meta(other)
        assert ours["curve"] == theirs["curve"]
        assert [file for file, value in theirs["sha256"].items() if ours["sha256"][file] != value] == []
    assert not list(again.parent.glob(".*interrupted"))


def test_passes_of_a_batch_add_up_to_the_batch(family, tmp_path):
    """16 contexts at once or in 4 passes: the same loss and the same gradient, to rounding.

    Weights after Adam are not compared: it divides a gradient by its own size, so one that is zero but for rounding (that
    of a bias of the keys, which softmax does not see) becomes a whole step in a direction of its own.
    """
    folder, *_ = family
    architecture = read_json(family[1] / "model_args.json")["architecture"]
    source = open_corpus(folder / "pets.zarr")
    gradients, losses = [], []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: gradients.append([w.grad.clone() for g in optimizer.param_groups for w in g["params"]])
    )
    try:
        for passes in (1, 4):
            settings = life.FIT | {"accumulation": passes, "tokens": 400, "clip": 1e9}
            fitted = fitting.fit(life_model(3, architecture), source, settings, 0, tmp_path / f"{passes}")
            losses.append(fitted.curve[-1]["train_loss"])
    finally:
        hook.remove()
    assert fitted.iteration == 1 and len(gradients) == 2
    # Sums over the batch's tokens in another order: a float32 sum of n terms is off by up to n / 2 eps of their size.
    rounding = fitted.tokens * torch.finfo(torch.float32).eps
    assert losses[1] == pytest.approx(losses[0], rel=rounding)
    for once, added in zip(*gradients, strict=True):
        assert once.norm() > 0 and (added - once).norm() <= rounding * once.norm()


def test_the_gradient_is_clipped(family, tmp_path):
    """Adam forgets how long a gradient is, unless it is hardly longer than its epsilon."""
    folder, *_ = family
    source, first = open_corpus(folder / "pets.zarr"), life_model(seed=3).state_dict()
    moved = []
    for clip in (1.0, 1e-12):
        settings = life.FIT | {"tokens": 400, "clip": clip, "weight_decay": 0.0, "accumulation": 1}
        fitted = fitting.fit(life_model(seed=3), source, settings, 0, tmp_path / str(clip))
        moved.append(max((fitted.last[name] - first[name]).abs().max().item() for name in fitted.last))
    assert fitted.iteration == 1
    assert moved[0] == pytest.approx(1e-2, rel=1e-3) and moved[1] < 1e-5


def test_a_later_pass_reads_the_same_batches_in_another_order(family):
    source = open_corpus(family[0] / "pets.zarr")
    order = fitting._Order(source, 16, seed=0)
    epochs = [
        [order.rows(step).start for step in range(n * order.per_epoch, (n + 1) * order.per_epoch)] for n in range(3)
    ]
    assert epochs[0] == sorted(epochs[0]) and epochs[0][0] == source.held_out
    assert sorted(epochs[1]) == sorted(epochs[2]) == epochs[0] and epochs[1] != epochs[2]
    for tokens in (1, 500, 8000, 20_000):
        steps = order.steps(tokens)
        assert order.tokens(steps - 1) < tokens <= order.tokens(steps)


def life_model(seed, architecture="gpt2"):
    sizes = model_sizes({"architecture": architecture, "sizes": life.SIZES[architecture]}, life.CONTEXT)
    return random_model(architecture, sizes, named_tokenizer("bytes"), seed)


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "ckpt.pt", "config.json", "tokenizer.json"])
def test_an_altered_file_is_named(own, file):
    made, *_ = own
    data = bytearray((made / file).read_bytes())
    data[len(data) // 2] ^= 1
    (made / file).write_bytes(data)
    with pytest.raises(
        AtlasError, match=rf"{file}: sha256 is \w+, export_meta.json says \w+; copy it again or make it anew$"
    ):
        sae_atlas.load_base_model(made)


def test_a_missing_file_is_named(own):
    (own[1] / "adapters" / "adapter_config.json").unlink()
    with pytest.raises(AtlasError, match=r"adapter_config.json: is not there"):
        sae_atlas.load_base_model(own[1])


def test_a_name_that_disagrees_is_refused(own):
    made = own[0]
    other = made.rename(made.with_name("gpt2-38M-pets-pretrain"))
    with pytest.raises(AtlasError, match=f"export_meta.json says that it is {made.name}; give it that name again"):
        sae_atlas.load_base_model(other)
    meta = read_json(other / "export_meta.json") | {"name": other.name}  # and one that was renamed with care
    (other / "export_meta.json").write_text(json.dumps(meta))
    why = r"its name says (38M, it has 34,720 parameters; call it gpt2-35k-pets-pretrain|gpt2, it holds gpt_neox; rename it)"
    with pytest.raises(AtlasError, match=why):
        sae_atlas.load_base_model(other)


def test_an_adapter_wants_its_own_base(own, family):
    made, adapter, whole = own
    with pytest.raises(AtlasError, match=rf"was trained on other weights than .*; give {made.name}"):
        sae_atlas.load_base_model(whole, adapter=adapter)
    with pytest.raises(AtlasError, match=r"is an adapter itself; merge it first"):
        sae_atlas.load_base_model(adapter, adapter=adapter)
    with pytest.raises(AtlasError, match=r"holds no adapter"):
        sae_atlas.load_base_model(made, adapter=whole)
    shutil.rmtree(made)
    with pytest.raises(AtlasError, match=r"its base model is not at .*; give it: load_base_model\(BASE, adapter="):
        sae_atlas.load_base_model(adapter)
    assert sae_atlas.load_base_model(family[1], adapter=adapter)  # wherever the base lies


def test_an_adapter_of_another_family_is_one_line(family, tmp_path):
    _, made, adapter, _ = family
    bare = shutil.copytree(adapter / "adapters", tmp_path / "bare")
    config = read_json(bare / "adapter_config.json") | {"target_modules": ["no_such"]}
    (bare / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AtlasError, match=r"bare: cannot be put on this base model \(\w+: Target modules"):
        sae_atlas.load_base_model(made, adapter=bare)


def test_merging_without_an_adapter_is_an_error(family, own, monkeypatch):
    folder, made, adapter, whole = family
    with pytest.raises(AtlasError, match=r"nothing: no adapter to merge; fine-tune first \(rule fine_tune_lora\)"):
        life.merged(folder, made, folder / "nothing", "x")
    with pytest.raises(AtlasError, match=r"no adapter to merge"):
        life.merged(folder, made, made, "x")
    monkeypatch.setattr(lora, "MOST", 0.0)
    with pytest.raises(AtlasError, match=r"its logits differ from base plus adapter by \d"):
        life.merged(folder, made, adapter, whole.name)


def test_an_adapter_that_changes_nothing_is_not_merged(family, tmp_path):
    folder, made, adapter, _ = family
    name = adapter.name.replace("horses", "nothing")
    still = life.tuned(folder, made, name, fit=life.FIT | {"learning_rate": 1e-30, "tokens": 400})
    with pytest.raises(AtlasError, match=r"changes nothing, it was not trained"):
        life.merged(folder, made, still, name.replace("lora", "merged"))


def test_a_name_that_promises_another_size_is_told_before_training(family, monkeypatch):
    folder, made, *_ = family
    monkeypatch.setattr("sae_atlas.lifecycle.pretrain.fit", None)
    short = made.name.partition("-")[0]
    why = rf"its name says 1.8M, it has 3\d,\d+ parameters; call it {short}-3\d.?\d?k-pets-pretrain"
    with pytest.raises(AtlasError, match=why):
        life.pretrained(folder, read_json(made / "model_args.json")["architecture"], f"{short}-1.8M-pets-pretrain")


def test_targets_that_are_no_modules_are_one_line(family):
    folder, made, adapter, _ = family
    with pytest.raises(AtlasError, match=r"base_model.lora.targets: `no_such` do not fit gpt"):
        life.tuned(folder, made, adapter.name, lora=life.LORA | {"targets": ["no_such"]})


def test_a_loss_that_is_lost_ends_the_run(family, tmp_path):
    source = open_corpus(family[0] / "pets.zarr")
    with pytest.raises(AtlasError, match=r"the loss is (nan|inf) at step \d+; lower fit.learning_rate"):
        fitting.fit(life_model(0), source, life.FIT | {"learning_rate": 1e30}, 0, tmp_path / "x")
    last = life.FIT | {"tokens": life.FIT["batch"], "warmup": 0, "validations": 1, "learning_rate": 1e30}  # one step
    with pytest.raises(AtlasError, match=r"the held-out loss is nan after step 1; lower fit.learning_rate"):
        fitting.fit(life_model(0), source, last, 0, tmp_path / "z")
    with pytest.raises(AtlasError, match=r"fit.batch: 5000 contexts, the corpus has \d+ train contexts; lower it"):
        fitting.fit(life_model(0), source, life.FIT | {"batch": 5000}, 0, tmp_path / "y")
