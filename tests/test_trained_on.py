"""What an SAE that others published was trained on: a module, which is a named site in some models, and a model's weights."""

import pytest
import torch
from random_saes import D_IN, random_checkpoint, random_sae, random_transcoder, sae_of_model
from site_models import TOKENS, captured, other

import sae_atlas
from models import random_model
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import write_json
from sae_atlas.publish.formats import saelens, sparsify
from sae_atlas.publish.formats.hooks import measured_site
from sae_atlas.publish.formats.import_sae import import_sae
from sae_atlas.publish.formats.import_start import import_start
from sae_atlas.publish.formats.load import load_sae
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.publish.formats.revisions import stated_revision
from sae_atlas.publish.formats.trained_on import check_model
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.sites import own_path
from sae_atlas.sites.measure import measure

# --- modules ---------------------------------------------------------------------------------------------------------

# family -> what stands between its MLP and the stream, the folder of sparsify for it, the path in the model
APART = {
    "gemma2": ("layers.1.mlp", "model.layers.{layer}.mlp"),
    "olmo2": ("layers.1.self_attn", "model.layers.{layer}.self_attn"),
    "granite": ("layers.1.mlp", "model.layers.{layer}.mlp"),
    "bloom": ("h.1.mlp", "transformer.h.{layer}.mlp"),
}


def taken(tmp_path, model, where, kind="sparsify", **sites):
    """Import as of a base model whose sites are those of `model`."""
    about = {"source": "local base", "d_model": D_IN, "sites": measure(model).plain()}
    write_json(tmp_path / "provenance.json", about)
    recipe = {"expansion": 4} | ({"architecture": "topk", "k": 5} if kind == "sparsify" else {"architecture": "relu"})
    recipe |= {"pretrained": {"source": "local", "format": kind, "path": str(tmp_path)}}
    import_sae(tmp_path / "provenance.json", tmp_path / "sae.pt", recipe, str(where), 1, 9, "base", **sites)
    return load_sae(tmp_path / "sae.pt").config["activations"]


@pytest.mark.parametrize("family", APART)
def test_a_modules_output_is_no_site_where_it_is_not_what_the_block_adds(tmp_path, family):
    folder, path = APART[family]
    sparsify.write(tmp_path / folder, random_sae("topk"), {})
    site = "attn_out" if "attn" in path else "mlp_out"
    with pytest.raises(AtlasError) as told:
        taken(tmp_path, other(family), tmp_path / folder, site=site)
    line = f"its site is {path}, the config's {site}; the model does not have the same at both: write that path as "
    assert str(told.value).endswith(f"{line}activations.site")
    assert taken(tmp_path, other(family), tmp_path / folder, site=path)["site"] == path


@pytest.mark.parametrize(
    ("model", "hook", "site"),
    [
        ("llama", "layers.1.mlp", "mlp_out"),
        ("llama", "layers.1.self_attn", "attn_out"),
        ("llama", "model.layers.1", "resid_post"),
        ("gpt2", "h.1.mlp", "mlp_out"),
        ("gpt2", "transformer.h.1.attn", "attn_out"),
        ("gpt_neox", "layers.1.attention", "attn_out"),
    ],
)
def test_a_modules_output_is_the_site_where_it_is_what_the_block_adds(tmp_path, model, hook, site):
    """By sparsify's names and SAELens', and whichever of both names the config has."""
    model = random_model(model)
    sparsify.write(tmp_path / hook, random_sae("topk"), {})
    assert taken(tmp_path, model, tmp_path / hook, site=site)["site"] == site
    path = own_path(hook.replace("1", "{layer}"), measure(model).path)
    assert taken(tmp_path, model, tmp_path / hook, site=path)["site"] == path
    saelens.write(tmp_path / "pair", random_sae("relu"), {"hook_name": hook})
    assert taken(tmp_path, model, tmp_path / "pair", "saelens", site=site)["site"] == site


def test_transcoders_of_a_module(tmp_path):
    sparsify.write(tmp_path / "layers.1.mlp", random_transcoder("topk", d_out=D_IN), {})
    named = {"site": "mlp_in", "target": "mlp_out"}
    said = taken(tmp_path, random_model("llama"), tmp_path / "layers.1.mlp", **named)
    assert {key: said[key] for key in named} == named
    line = r"its target is model\.layers\.\{layer\}\.mlp, the config's mlp_out; .* activations\.target"
    with pytest.raises(AtlasError, match=line):
        taken(tmp_path, other("gemma2"), tmp_path / "layers.1.mlp", **named)
    own = {"site": "mlp_in", "target": "model.layers.{layer}.mlp"}
    said = taken(tmp_path, other("gemma2"), tmp_path / "layers.1.mlp", **own)
    assert {key: said[key] for key in own} == own


def test_a_module_of_another_list_is_another_module():
    sites = measure(random_model("llama")).plain()
    assert measured_site("vision_tower.layers.{layer}.mlp", 1, sites) == "vision_tower.layers.{layer}.mlp"
    assert measured_site("language_model.model.layers.{layer}.mlp", 1, sites) == "mlp_out"
    assert measured_site("model.layers.{layer}.mlp.up_proj", 1, sites) == "model.layers.{layer}.mlp.up_proj"
    assert measured_site("in:layers.{layer}.mlp", 1, sites) == "mlp_in"
    assert measured_site("in:layers.{layer}", 1, sites) == "resid_pre"
    assert measured_site("layers.{layer}.mlp", 1, None) == "layers.{layer}.mlp"  # prepared before sites were measured


@pytest.mark.parametrize("target", [None, "layers.{layer}.mlp"])
def test_the_module_itself_is_patched(target):
    """In Gemma 2 a norm stands between the module and what the block adds."""
    model, path = other("gemma2"), "model.layers.{layer}.mlp"
    sae = sae_of_model("in:layers.{layer}.mlp" if target else "layers.{layer}.mlp", 1, target)
    x = captured(model, f"in:{path}" if target else path, [1])[1]
    with sae_atlas.patch(model, sae), sae_atlas.capture(model, path, [1]) as found:
        model(TOKENS)
    torch.testing.assert_close(found[1][:, 1:], sae(x)[:, 1:].float(), atol=1e-4, rtol=1e-4)


def test_a_module_path_is_the_same_after_saelens(tmp_path):
    """An SAE of ours that was trained on a module said after the way through SAELens that it was of mlp_out."""
    checkpoint = random_checkpoint("relu")
    checkpoint["config"]["activations"]["site"] = "model.layers.{layer}.mlp"
    checkpoints.save(tmp_path / "model.pt", **checkpoint)
    sae = load_sae(tmp_path / "model.pt")
    saelens.write(tmp_path / "pair", sae, metadata(sae.config))
    said = load_sae(tmp_path / "pair").config["activations"]
    assert (said["site"], said["layer"]) == ("model.layers.{layer}.mlp", 3)


# --- weights ---------------------------------------------------------------------------------------------------------

COMMIT, OTHER = "a" * 40, "b" * 40
FILE = "model.safetensors"
STEP = {"source": "hub EleutherAI/pythia-70m", "revision": OTHER, "weights_sha256": {FILE: "0123456789"}}
FINAL = {"source": "hub EleutherAI/pythia-70m", "revision": COMMIT, "weights_sha256": {FILE: "9876543210"}}


def check(theirs, model, revision=None):
    check_model("sae.pt", theirs, model, "pythia-70m", revision)


@pytest.mark.parametrize(
    "weights",
    [
        {FILE: "0123456789"},
        {"pytorch_model.bin": "9876543210"},
        {FILE: "9876543210", "adapter_model.safetensors": "5"},
        {FILE: "9876543210", "pytorch_model.bin": "1", "model-2.safetensors": "2", "adapter_model.safetensors": "5"},
    ],
)
def test_other_weights_are_refused(weights):
    for theirs, ours in ((FINAL | {"weights_sha256": weights}, FINAL), (FINAL, FINAL | {"weights_sha256": weights})):
        with pytest.raises(AtlasError, match=r"was trained on hub EleutherAI/pythia-70m at a{40} .*start_from") as told:
            check(theirs, ours)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "theirs",
    [
        FINAL,
        FINAL | {"revision": OTHER},  # another commit with the same weights
        FINAL | {"weights_sha256": {FILE: "9876543210", "pytorch_model.bin": "1"}},  # a folder with both forms
        {"source": "pythia-70m"},
        {"source": None},
        {"source": "pythia-70m", "revision": "main"},
        {"source": "pythia-70m", "revision": COMMIT},
        {},
    ],
)
def test_the_same_weights_and_what_is_not_stated_are_taken(theirs):
    check(theirs, FINAL)
    check(theirs, {"source": "local pythia-70m", "weights_sha256": FINAL["weights_sha256"]})


@pytest.mark.parametrize(
    ("stated", "revision", "is_taken"),
    [
        ("step1000", None, False),
        ("step1000", "main", False),
        ("step1000", "step2000", False),
        ("step1000", "step1000", True),
        ("step1000", COMMIT, True),  # which of both is not known here
        (OTHER, None, False),
        (OTHER, "step1000", False),
        (COMMIT, "step1000", True),
    ],
)
def test_another_revision_is_refused(stated, revision, is_taken):
    theirs = {"source": "EleutherAI/pythia-70m", "revision": stated}
    if is_taken:
        check(theirs, FINAL, revision)
        return
    with pytest.raises(AtlasError) as told:
        check(theirs, FINAL, revision)
    assert str(told.value) == (
        f"sae.pt: was trained on revision {stated} of EleutherAI/pythia-70m, the config's is {revision or 'main'}; write it as "
        "base_model.revision"
    )


@pytest.mark.parametrize(
    ("name", "settings", "revision"),
    [
        ("pythia-70m", {"revision": "step3000"}, "step3000"),
        ("EleutherAI/pythia-70m", {"checkpoint_value": 1000}, "step1000"),
        ("pythia-70m-deduped", {"checkpoint_index": 11}, "step1000"),
        ("pythia-70m", {"checkpoint_index": -1}, "step143000"),
        ("pythia-70m-v0", {"checkpoint_index": 0}, "step1000"),
        ("stanford-gpt2-small-a", {"checkpoint_value": 100}, "checkpoint-100"),
        ("pythia-70m", {"checkpoint_index": 1000}, None),
        ("gelu-1l", {"checkpoint_value": 1000}, None),
        ("pythia-70m", {"center_writing_weights": False}, None),
    ],
)
def test_saelens_says_by_which_revision_its_model_was_loaded(tmp_path, name, settings, revision):
    assert stated_revision(name, settings) == revision
    said = {"hook_name": "blocks.3.hook_resid_post", "model_name": name, "model_from_pretrained_kwargs": settings}
    saelens.write(tmp_path, random_sae("relu"), said)
    assert load_sae(tmp_path).config["activations"]["base_model"].get("revision") == revision


def test_a_release_of_another_revision_is_not_measured_but_begun_at(tmp_path):
    """In our own format, and in the pair that lies beside every card."""
    checkpoint = random_checkpoint("relu")
    checkpoint["config"]["activations"] |= {"base_model": STEP, "site": "resid_post", "layer": 1}
    checkpoints.save(tmp_path / "sae.pt", **checkpoint)
    sae = load_sae(tmp_path / "sae.pt")
    saelens.write(tmp_path / "pair", sae, metadata(sae.config))
    recipe = {"architecture": "relu", "expansion": 4}
    for kind, where in (("atlas", "sae.pt"), ("saelens", "pair")):
        pretrained = {"source": "local", "format": kind, "path": str(tmp_path)}
        for model in (FINAL, STEP):
            write_json(tmp_path / "provenance.json", model | {"d_model": D_IN})
            arguments = (tmp_path / "provenance.json", tmp_path / "out.pt", recipe | {"pretrained": pretrained})
            arguments += (str(tmp_path / where), 1, 9, "pythia-70m", "resid_post")
            if model is STEP:
                import_sae(*arguments)
                continue
            with pytest.raises(AtlasError, match=r"sha256 01234567\), the config's base model is .*sha256 98765432\)"):
                import_sae(*arguments)
        import_start(tmp_path / "start.pt", str(tmp_path / where), 1)
