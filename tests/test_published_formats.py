"""SAEs as others published them: recognised by their files, refused in one line where they compute something else.

tests/peers/test_published.py holds their numbers against SAELens'.
"""

import forged
import pytest
import torch
from forged import HOOK, LAYER, K
from hub import point_at, serve
from random_saes import D_IN, D_OUT, D_SAE, activations
from rounding import assert_same_function, decided
from safetensors.torch import load_file, save_file

from sae_atlas.config.conversions import CONVERSIONS
from sae_atlas.config.published import completed
from sae_atlas.edit import patch
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, write_json
from sae_atlas.metrics.active import through_latents
from sae_atlas.publish.formats import dictionary_learning, one_file, saelens, sparsify
from sae_atlas.publish.formats.hooks import is_same_site
from sae_atlas.publish.formats.import_sae import import_sae
from sae_atlas.publish.formats.load import FORMATS, READERS, format_of, load_sae, read
from sae_atlas.saes.checkpoint import load_checkpoint, load_tensors, save_tensors
from sae_atlas.saes.sae import Sae
from sae_atlas.sites import HEADS

FORGED = {  # format -> what writes one
    "gemma_scope": forged.gemma_scope,
    "gemma_scope_2": forged.gemma_scope_2,
    "llama_scope": forged.llama_scope,
    "llama_scope_r1_distill": forged.llama_scope_r1_distill,
    "qwen_scope": forged.qwen_scope,
    "goodfire": forged.goodfire,
    "deepseek_r1": forged.deepseek_r1,
    "connor_rob_hook_z": forged.connor_rob_hook_z,
    "circuit_tracer": forged.circuit_tracer,
}
RESIDUAL = ("resid_post", None)
SAID = {  # format -> site, target and layer as the files say them
    "gemma_scope": (None, None, None),
    "gemma_scope_2": (*RESIDUAL, LAYER),
    "llama_scope": (*RESIDUAL, LAYER),
    "llama_scope_r1_distill": (*RESIDUAL, LAYER),
    "qwen_scope": (*RESIDUAL, LAYER),
    "goodfire": (*RESIDUAL, 19),
    "deepseek_r1": (*RESIDUAL, 19),
    "connor_rob_hook_z": (HEADS, None, LAYER),
    "circuit_tracer": ("mlp_in", "mlp_out", LAYER),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_format_is_known_by_its_files_and_says_where_it_reads(tmp_path, kind):
    path = FORGED[kind](tmp_path)
    said = load_sae(path).config["activations"]
    assert format_of(path) == kind
    assert (said["site"], said.get("target"), said["layer"]) == SAID[kind]


@pytest.mark.parametrize("kind", FORGED)
def test_its_width_is_told_before_the_run(tmp_path, kind):
    path = FORGED[kind](tmp_path)
    layer = SAID[kind][2] or LAYER
    file = "." if path == tmp_path else path.name.replace(str(layer), "{layer}", 1)
    pretrained = {"source": "local", "format": kind, "path": str(tmp_path), "file": file}
    config = {"base_model": {"name": "base"}, "activations": {"layers": [layer], "site": "resid_post"}}
    assert completed({"pretrained": pretrained}, "theirs", config)["expansion"] == D_SAE // D_IN


@pytest.mark.parametrize("kind", FORGED)
def test_a_file_cut_short_is_one_line(tmp_path, kind):
    path = FORGED[kind](tmp_path)
    tensors = max((file for file in tmp_path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(AtlasError) as error:
        load_sae(path)
    assert "\n" not in str(error.value) and tensors.name in str(error.value)


class Code:
    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.parametrize("kind", ["qwen_scope", "goodfire", "deepseek_r1", "connor_rob_hook_z"])
def test_code_in_a_file_is_not_run(tmp_path, kind):
    path = FORGED[kind](tmp_path)
    torch.save(load_tensors(path) | {"more": Code()}, path)
    with pytest.raises(AtlasError, match="holds more than tensors and plain values; it may be code and is not run"):
        load_sae(path)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("gemma_scope_2", {"type": "clt"}, "type 'clt' reads or writes several layers at once"),
        ("gemma_scope_2", {"type": "crosscoder"}, "type 'crosscoder' reads or writes several layers at once"),
        ("gemma_scope_2", {"type": "sea"}, "type 'sea' is not supported"),
        ("gemma_scope_2", {"architecture": "topk"}, "architecture 'topk' is not supported"),
        ("gemma_scope_2", {"affine_connection": True}, "affine_connection True is not supported"),
        ("gemma_scope_2", {"width": 2 * D_SAE}, "width is 128, the weights have 64"),
        ("gemma_scope_2", {"input_scale": 2.0}, "key `input_scale` .2.0. is not known here"),
        ("gemma_scope_2", {"hf_hook_point_out": "model.layers.4.output"}, "hf_hook_point_out is not what it reads"),
        ("llama_scope", {"act_fn": "topk"}, "act_fn 'topk' is not supported"),
        ("llama_scope", {"norm_activation": "token-wise"}, "norm_activation 'token-wise' is not supported"),
        ("llama_scope", {"use_glu_encoder": True}, "use_glu_encoder True is not supported"),
        ("llama_scope", {"apply_decoder_bias_to_pre_encoder": True}, "apply_decoder_bias_to_pre_encoder True is not"),
        ("llama_scope", {"hook_point_out": "blocks.3.hook_mlp_out"}, "is a transcoder, it predicts 'blocks.3.hook_mlp_out'"),
        ("llama_scope", {"dataset_average_activation_norm": {}}, "mean norm of the activations is None, not a number"),
        ("llama_scope", {"dataset_average_activation_norm": {"in": 0}}, "mean norm of the activations is 0, not a number"),
        ("llama_scope", {"jump_relu_threshold": None}, "jump_relu_threshold is None, not a number"),
        ("llama_scope", {"d_sae": 65}, "d_sae is 65, the weights have 64"),
        ("llama_scope_r1_distill", {"sae_type": "crosscoder"}, "sae_type 'crosscoder' is not supported"),
        ("llama_scope_r1_distill", {"expansion_factor": 8}, r"d_model \* expansion_factor is 128, the weights have 64"),
        ("qwen_scope", {"model_type": "batch_topk_sae"}, "model_type 'batch_topk_sae' is not supported"),
        ("qwen_scope", {"k": 0}, "k is 0, not a whole number from 1 to the 64 latents"),
        ("qwen_scope", {"d_model": 8}, "d_model is 8, the weights have 16"),
        ("circuit_tracer", {"model_kind": "cross_layer_transcoder"}, "model_kind 'cross_layer_transcoder' writes several"),
    ],
)  # fmt: skip
def test_what_changes_the_latents_is_refused(tmp_path, kind, changes, words):
    with pytest.raises(AtlasError, match=words) as error:
        load_sae(FORGED[kind](tmp_path, **changes))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_gemma_scope_of_embeddings_is_refused_and_a_factor_of_ones_is_nothing(tmp_path):
    where = "layer_3/width_16k/average_l0_6"
    plain = load_sae(forged.gemma_scope(tmp_path / where))
    assert_same_function(
        load_sae(forged.gemma_scope(tmp_path / "b", scaling_factor=torch.ones(D_SAE))), plain, inputs(plain)
    )
    with pytest.raises(AtlasError, match="scaling_factor is not 1"):
        load_sae(forged.gemma_scope(tmp_path / "c", scaling_factor=torch.full((D_SAE,), 2.0)))
    with pytest.raises(AtlasError, match="is of token embeddings before the model scales them"):
        load_sae(forged.gemma_scope(tmp_path / "embedding" / "width_4k" / "average_l0_6"))


def inputs(sae: Sae) -> torch.Tensor:
    """Those at which no latent is at the edge of being active."""
    x = activations()
    return x[decided(sae, x)]


def test_an_affine_transcoder_of_gemma_scope_2_is_the_formula_of_its_release(tmp_path):
    sae, w, x = load_sae(forged.gemma_scope_2(tmp_path, "transcoder", affine=True)), forged.weights(), activations()
    z = x @ w["W_enc"].T + w["b_enc"]
    latents = torch.relu(z) * (z > w["threshold"])
    torch.testing.assert_close(sae(x), latents @ w["W_dec"] + w["b_dec"] + x @ forged.skip(), atol=1e-3, rtol=1e-5)
    assert sae.is_transcoder and sae.config["recipe"]["skip"] is True
    config = read_json(tmp_path / "config.json")
    for affine, words in ((True, "has no tensor `affine_skip_connection`"), (False, "unknown tensor `affine_skip")):
        folder = forged.gemma_scope_2(tmp_path / str(affine), "transcoder", affine=not affine)
        write_json(folder / "config.json", config | {"affine_connection": affine})
        with pytest.raises(AtlasError, match=words):
            load_sae(folder)


@pytest.mark.parametrize(
    ("name", "base_model"),
    [
        ("google/gemma-3-1b-pt", "google/gemma-3-1b-pt"),
        ("gemma-v3-4b-it", "gemma-3-4b-it"),
        ("google/gemma-3-270m-pt", "google/gemma-3-270m"),
    ],
)
def test_gemma_scope_2_names_its_model_as_the_hub_does(tmp_path, name, base_model):
    sae = load_sae(forged.gemma_scope_2(tmp_path, model_name=name))
    assert sae.config["activations"]["base_model"] == {"source": base_model}


@pytest.mark.parametrize("kind", ["llama_scope", "llama_scope_r1_distill"])
@pytest.mark.parametrize("with_norms", [True, False])
def test_llama_scope_compares_a_latent_times_the_norm_of_its_decoder_row(tmp_path, kind, with_norms):
    norms = torch.linspace(0.5, 2, D_SAE)
    w, x = forged.weights(), activations()
    w["W_dec"] = w["W_dec"] * norms[:, None]
    sae = load_sae(FORGED[kind](tmp_path, w, sparsity_include_decoder_norm=with_norms))
    factor = D_IN**0.5 / forged.NORM
    z = factor * x @ w["W_enc"].T + w["b_enc"]
    threshold = torch.tensor(0.5 * factor) if kind == "llama_scope" else w["threshold"]
    latents = z * (z * (norms if with_norms else 1) > threshold)
    torch.testing.assert_close(sae.encode(x), latents, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sae(x), (latents @ w["W_dec"] + w["b_dec"]) / factor, atol=1e-3, rtol=1e-5)


def test_a_latent_of_llama_scope_that_decodes_to_nothing_is_never_active(tmp_path):
    w = forged.weights()
    w["W_dec"][0] = 0
    sae = load_sae(forged.llama_scope(tmp_path, w))
    assert (sae.encode(activations())[:, 0] == 0).all() and sae.threshold.isfinite().all()


def test_k_of_qwen_scope_is_in_the_config_beside_its_files_or_given(tmp_path):
    file = forged.qwen_scope(tmp_path)
    assert load_sae(file, k=K).k == load_sae(file).k == K
    with pytest.raises(AtlasError, match=r"config\.json: k is 5, not the 9 that were asked for"):
        load_sae(file, k=9)
    (tmp_path / "config.json").unlink()
    assert load_sae(file, k=9).k == 9
    with pytest.raises(AtlasError, match=r"does not say how many latents are active; fetch config\.json"):
        load_sae(file)


def test_all_of_a_folder_of_circuit_tracer_are_read(tmp_path):
    relu = load_sae(forged.circuit_tracer(tmp_path / "a"))
    jumprelu = load_sae(forged.circuit_tracer(tmp_path / "b", threshold=True, feature_input_hook="hook_resid_mid"))
    assert (relu.architecture, jumprelu.architecture) == ("relu", "jumprelu")
    assert jumprelu.config["activations"]["site"] == "resid_mid"
    (tmp_path / "a" / "config.yaml").unlink()
    said = load_sae(tmp_path / "a" / f"layer_{LAYER}.safetensors").config["activations"]
    assert (said["site"], said["target"], said["layer"]) == (None, None, LAYER)


def test_the_values_of_all_heads_are_what_goes_into_attentions_output_projection():
    for ours in ("in:model.layers.{layer}.self_attn.o_proj", "in:transformer.h.{layer}.attn.c_proj", HEADS):
        assert is_same_site(HEADS, ours, 3, None)
    for ours in ("in:transformer.h.{layer}.mlp.c_proj", "in:model.layers.{layer}.self_attn.q_proj", "attn_out"):
        assert not is_same_site(HEADS, ours, 3, None)


MODEL = {"source": "hub Qwen/Qwen3-1.7B-Base", "d_model": D_IN}


def take_over(tmp_path, kind: str, file: str, base: str, recipe: dict, site="resid_post", target=None) -> Sae:
    write_json(tmp_path / "provenance.json", MODEL | {"source": f"hub {base}"})
    pretrained = {"source": "hub", "id": "someone/theirs", "format": kind, "file": file}
    values = {"expansion": D_SAE // D_IN, **recipe, "pretrained": pretrained}
    where = file.format(layer=LAYER)
    import_sae(
        tmp_path / "provenance.json", tmp_path / "sae.pt", values, where, LAYER, 9, base, site, *([target] if target else [])
    )  # fmt: skip
    return Sae(**load_checkpoint(tmp_path / "sae.pt"))


@pytest.mark.parametrize("small", [True, False])
def test_a_release_on_the_hub_may_lack_its_small_file(tmp_path, monkeypatch, small):
    release = tmp_path / "release"
    forged.qwen_scope(release)
    forged.gemma_scope_2(release / "transcoder" / f"layer_{LAYER}", "transcoder")
    forged.llama_scope(release / f"L{LAYER}")
    forged.gemma_scope_2(release / "attn_out" / f"layer_{LAYER}", "attn_out")
    with serve() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        for file in release.rglob("*"):
            if file.is_file() and (small or file.name != "config.json"):
                hub.files[str(file.relative_to(release))] = file.read_bytes()
        topk, jumprelu = {"architecture": "topk", "k": K}, {"architecture": "jumprelu"}
        sae = take_over(tmp_path, "qwen_scope", "layer{layer}.sae.pt", "Qwen/Qwen3-1.7B-Base", topk)
        assert_same_function(sae, load_sae(release / f"layer{LAYER}.sae.pt"), inputs(sae))
        gemma = "google/gemma-3-1b-pt"
        sae = take_over(tmp_path, "gemma_scope_2", "transcoder/layer_{layer}", gemma, jumprelu, "mlp_in", "mlp_out")
        assert sae.is_transcoder
        sae = take_over(tmp_path, "llama_scope", "L{layer}", "meta-llama/Llama-3.1-8B", jumprelu)
        assert_same_function(sae, load_sae(release / f"L{LAYER}"), inputs(sae))
        heads = "in:model.layers.{layer}.self_attn.o_proj"
        take_over(tmp_path, "gemma_scope_2", "attn_out/layer_{layer}", gemma, jumprelu, heads)
        if small:
            with pytest.raises(AtlasError, match="k is 5, not the 4 that were asked for"):
                take_over(tmp_path, "qwen_scope", "layer{layer}.sae.pt", "Qwen/Qwen3-1.7B-Base", topk | {"k": 4})
            with pytest.raises(AtlasError, match=r"its site is blocks.{layer}.attn.hook_z, the config's resid_post"):
                take_over(tmp_path, "gemma_scope_2", "attn_out/layer_{layer}", gemma, jumprelu)
        del hub.files[f"L{LAYER}/hyperparams.json"]
        with pytest.raises(
            AtlasError, match=r"L3/hyperparams.json of someone/other at main cannot be had from the hub"
        ):
            write_json(tmp_path / "provenance.json", MODEL)
            pretrained = {"source": "hub", "id": "someone/other", "format": "llama_scope"}
            import_sae(tmp_path / "provenance.json", tmp_path / "sae.pt", jumprelu | {"pretrained": pretrained},
                       f"L{LAYER}", LAYER, 9, "base", "resid_post")  # fmt: skip


def test_saelens_before_6_is_read_where_the_registry_lists_it(tmp_path):
    folder = forged.saelens_before_6(tmp_path, 2)
    with pytest.raises(AtlasError, match="written by SAELens before 6, and does not say how its model was processed"):
        load_sae(folder)
    assert Sae(**read(folder, "saelens", registered={})).architecture == "relu"
    with pytest.raises(AtlasError, match=r"key `latent_scale` .2. is not known here"):
        read(forged.saelens_before_6(tmp_path, 2, latent_scale=2), "saelens", registered={})
    with pytest.raises(AtlasError, match="hook_head_index 7 is not supported"):
        read(forged.saelens_before_6(tmp_path, 2, hook_point_head_index=7), "saelens", registered={})


@pytest.mark.parametrize("factor", [None, 0, True, "0.5", float("nan")])
def test_an_average_norm_needs_the_factor_of_the_registry(tmp_path, factor):
    folder = forged.saelens_before_6(tmp_path, normalize_activations="expected_average_only_in")
    with pytest.raises(AtlasError, match="neither the file nor the registry states the factor"):
        read(folder, "saelens", registered={"norm_scaling_factor": factor})


def test_a_learnt_factor_of_the_latents_is_folded_into_the_decoder(tmp_path):
    factor = torch.linspace(0.5, 2, D_SAE)
    plain = Sae(**read(forged.saelens_before_6(tmp_path / "a"), "saelens", registered={}))
    tensors = {"scaling_factor": factor}
    tuned = forged.saelens_before_6(tmp_path / "b", tensors=tensors, finetuning_scaling_factor=True)
    sae, x = Sae(**read(tuned, "saelens", registered={})), activations()
    torch.testing.assert_close(sae.encode(x), plain.encode(x))
    torch.testing.assert_close(sae(x), plain.decode(plain.encode(x) * factor), atol=1e-4, rtol=1e-5)
    with pytest.raises(
        AtlasError, match=r"scaling_factor is not 1, but finetuning_scaling_factor of cfg.json does not"
    ):
        read(forged.saelens_before_6(tmp_path / "c", tensors=tensors), "saelens", registered={})


NORMS = {
    "layer_norm": {"normalize_activations": "layer_norm"},
    "constant_norm_rescale": {"normalize_activations": "constant_norm_rescale"},
    "centre": {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
}


@pytest.mark.parametrize("name", NORMS)
def test_an_sae_that_normalises_every_token_says_so_wherever_it_goes(tmp_path, name):
    """Its latents are measured and decoded by what it read; formats that cannot say it refuse it."""
    sae, x = (
        Sae(**read(forged.saelens_before_6(tmp_path / "a", **NORMS[name]), "saelens", registered={})),
        activations(),
    )
    assert sae.token_norm == name
    with pytest.raises(AtlasError, match=rf"normalises every token .{name}.; give the activations, too"):
        sae.decode(sae.encode(x))
    torch.testing.assert_close(through_latents(sae, x)[1], sae(x))
    shift = torch.ones(len(x), 1)
    if name != "constant_norm_rescale":  # a mean is let past
        torch.testing.assert_close(sae.encode(x + shift), sae.encode(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(sae(x + shift), sae(x) + shift, atol=1e-3, rtol=1e-4)
    if name != "centre":  # a size is
        torch.testing.assert_close(sae.encode(3 * x), sae.encode(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(sae(3 * x), 3 * sae(x), atol=1e-3, rtol=1e-4)
    one_file.write(tmp_path, sae, {})
    saelens.write(tmp_path / "pair", sae, {"hook_name": HOOK})
    for path in (tmp_path / "sae.safetensors", tmp_path / "pair"):
        torch.testing.assert_close(load_sae(path)(x), sae(x))
    for module in (sparsify, dictionary_learning):
        with pytest.raises(AtlasError, match=r"has no SAEs that normalise every token|sparsify has TopK only"):
            module.write(tmp_path / "none", sae, {})
    value = {
        "model_state": load_file(tmp_path / "sae.safetensors"),
        "config": sae.config | {"token_norm": "batch_norm"},
    }
    save_tensors(tmp_path / "sae.pt", value | {"stats": {}})
    with pytest.raises(AtlasError, match="token_norm 'batch_norm' is not known here"):
        load_checkpoint(tmp_path / "sae.pt")


def test_layer_norm_by_hand():
    """x = [3, 1]: mean 2, deviation root 2; read as [1, -1] / root 2, and written back by the same."""
    identity, zero = torch.eye(2), torch.zeros(2)
    state = {"encoder.weight": identity, "encoder.bias": zero, "decoder.weight": identity, "decoder.bias": zero}
    config = {"recipe": {"architecture": "relu"}, "token_norm": "layer_norm"}
    sae, x = Sae({**state, "b_pre": zero}, config), torch.tensor([[3.0, 1.0]])
    torch.testing.assert_close(sae.encode(x), torch.tensor([[0.5**0.5, 0.0]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(sae(x), torch.tensor([[3.0, 2.0]]), atol=1e-4, rtol=0)


def test_every_format_has_a_reader_and_every_reason_is_a_sentence():
    assert {*READERS, "atlas"} == set(FORMATS)
    for said in CONVERSIONS.values():
        assert (said.format in FORMATS) != (len(said.refusal.split()) > 5)


def test_a_transcoder_of_gemma_scope_that_predicts_other_dimensions(tmp_path):
    sae = load_sae(forged.gemma_scope(tmp_path, is_transcoder=True), is_transcoder=True)
    assert (sae.d_in, sae.d_out) == (D_IN, D_OUT)
    with pytest.raises(AtlasError, match="reads what the norm gives before its weights"):
        patch(torch.nn.Linear(1, 1), sae, site="mlp_in", layer=0, target="mlp_out").__enter__()


def test_a_tensor_that_is_not_finite_is_refused(tmp_path):
    folder = forged.gemma_scope_2(tmp_path)
    file = folder / "params.safetensors"
    save_file(load_file(file) | {"b_dec": torch.full((D_IN,), float("nan"))}, file)
    with pytest.raises(AtlasError, match="b_dec holds values that are not finite"):
        load_sae(folder)
