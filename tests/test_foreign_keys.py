"""Keys of other libraries' configs: what changes the latents is understood or refused in one line, what does not is ignored."""

import pytest
import torch
from random_saes import D_IN, D_OUT, D_SAE, activations, random_sae, random_transcoder
from rounding import assert_same_function
from safetensors.torch import load_file, save_file

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, write_json
from sae_atlas.publish.formats import dictionary_learning, saelens, sparsify
from sae_atlas.publish.formats.load import load_sae
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.saes.checkpoint import load_tensors, save_tensors

MODULES = {"saelens": saelens, "sparsify": sparsify, "dictionary_learning": dictionary_learning}


def merged(config: dict, changes: dict) -> dict:
    """config with changes in its sections; None takes a key away."""
    inner = {key: merged(config.get(key, {}), value) for key, value in changes.items() if isinstance(value, dict)}
    return {key: value for key, value in (config | changes | inner).items() if value is not None}


def written(folder, kind, architecture, changes):
    sae = random_sae(architecture)
    MODULES[kind].write(folder / "layers.3", sae, metadata(sae.config))
    file = folder / "layers.3" / MODULES[kind].FILES[0]
    write_json(file, merged(read_json(file), changes))
    return folder / "layers.3"


@pytest.mark.parametrize(
    ("kind", "architecture", "changes", "words"),
    [
        *(("saelens", "topk", {"normalize_activations": value}, f"normalize_activations '{value}' is not supported")
          for value in ("expected_average_only_in", "covariance_whitening")),
        ("saelens", "relu", {"reshape_activations": "hook_z"}, "reshape_activations 'hook_z' is not supported"),
        ("saelens", "relu", {"architecture": "matching_pursuit"}, ".residual_threshold 0.01, stop_on_duplicate_support True"),
        ("saelens", "matching_pursuit", {"residual_threshold": 0.5}, "may stop before its .* .residual_threshold 0.5.;"),
        ("saelens", "matching_pursuit", {"stop_on_duplicate_support": True}, "latents .stop_on_duplicate_support True.;"),
        ("saelens", "matching_pursuit", {"stop_on_duplicate_support": None}, "latents .stop_on_duplicate_support True.;"),
        ("saelens", "matching_pursuit", {"apply_b_dec_to_input": False}, "apply_b_dec_to_input False is not supported"),
        ("saelens", "matching_pursuit", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor True is not supported"),
        ("saelens", "matching_pursuit", {"normalize_activations": "expected_average_only_in"}, "average_only_in' is not supp"),
        ("saelens", "topk", {"max_iterations": 5}, "key `max_iterations` .5. is not known here"),
        ("saelens", "matching_pursuit", {"max_iterations": 65}, "max_iterations is 65, not a whole number from 1 to the 64"),
        ("saelens", "relu", {"architecture": "temporal"}, "'temporal' .*: its latents depend on the tokens"),
        ("saelens", "relu", {"architecture": "crosscoder"}, "architecture 'crosscoder' is not supported"),
        ("saelens", "relu", {"architecture": "transcoder", "d_out": D_IN}, "apply_b_dec_to_input True is not supported"),
        ("saelens", "relu", {"activation_fn": "tanh-relu"}, "activation_fn 'tanh-relu' is not supported"),
        ("saelens", "relu", {"finetuning_scaling_factor": True}, "has no tensor `scaling_factor`"),
        ("saelens", "relu", {"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input 'yes' is not supported"),
        ("saelens", "relu", {"d_out": D_IN}, "key `d_out` .16. is not known here and may change"),
        ("saelens", "relu", {"residual_threshold": 0.1}, "key `residual_threshold` .0.1. is not known here"),
        ("saelens", "relu", {"metadata": {"hook_head_index": 2}}, "hook_head_index 2 is not supported; only null is"),
        ("saelens", "relu", {"metadata": {"hook_name_out": "blocks.3.hook_mlp_out"}}, "hook_name_out .* is not supported"),
        ("saelens", "relu", {"normalize_activations": "constant_norm_rescale",
                             "metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}},
         "'constant_norm_rescale' is not supported with center_writing_weights"),
        *(("saelens", kind, {"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm True is not supported")
          for kind in ("relu", "jumprelu")),
        ("saelens", "relu", {"metadata": {"hook_layer": 7}}, "hook_name is 'blocks.3.hook_resid_post', but its layer 7"),
        ("dictionary_learning", "topk", {"trainer": {"submodule_name": "resid_post_layer_7"}}, "but its layer 3"),
        ("dictionary_learning", "topk", {"trainer": {"submodule_name": "model.layers.7"}}, "but its layer 3"),
        ("saelens", "relu", {"d_sae": 32}, "d_sae is 32, the weights have 64"),
        ("saelens", "relu", {"d_in": 17}, "d_in is 17, the weights have 16"),
        ("saelens", "topk", {"k": D_SAE + 1}, "k is 65, not a whole number from 1 to the 64 latents"),
        ("sparsify", "topk", {"signed": True}, "signed True is not supported"),
        ("sparsify", "topk", {"transcode": "yes"}, "transcode 'yes' is not supported"),
        ("sparsify", "topk", {"skip_connection": True}, "skip_connection True is not supported"),
        ("sparsify", "topk", {"activation": "groupmax"}, "activation 'groupmax' is not supported"),
        ("sparsify", "topk", {"batch_topk": True}, "key `batch_topk` .True. is not known here"),
        ("sparsify", "topk", {"encoder_pkm": True}, "key `encoder_pkm` .True. is not known here"),
        ("sparsify", "topk", {"num_latents": 128}, "num_latents is 128, the weights have 64"),
        ("sparsify", "topk", {"num_latents": 0, "expansion_factor": 8}, "expansion_factor is 128, the weights have 64"),
        ("sparsify", "topk", {"d_in": 8}, "d_in is 8, the weights have 16"),
        ("sparsify", "topk", {"k": 65}, "k is 65, not a whole number from 1 to the 64 latents"),
        ("dictionary_learning", "topk", {"trainer": {"k": 6}}, r"trainer\.k is 6, the weights have 5"),
        ("dictionary_learning", "topk", {"trainer": {"dict_size": 65}}, r"trainer\.dict_size is 65, the weights have 64"),
        ("dictionary_learning", "relu", {"trainer": {"activation_dim": 8}}, "activation_dim is 8, the weights have 16"),
        ("dictionary_learning", "relu", {"buffer": {"io": "in_and_out"}}, "io 'in_and_out' is not supported"),
        ("dictionary_learning", "relu", {"buffer": {"io": "in"}}, "io 'in' is not supported"),
    ],
)  # fmt: skip
def test_what_changes_the_latents_is_refused(tmp_path, kind, architecture, changes, words):
    with pytest.raises(AtlasError, match=words) as error:
        load_sae(written(tmp_path, kind, architecture, changes))
    assert "\n" not in str(error.value) and any(name in str(error.value) for name in MODULES[kind].FILES)


OUT_OF_LAYER = {"metadata": {"hook_name_out": "blocks.4.hook_mlp_out"}}


@pytest.mark.parametrize(
    ("kind", "architecture", "changes", "words"),
    [
        ("saelens", "relu", OUT_OF_LAYER, "hook_name_out is 'blocks.4.hook_mlp_out', but its layer 3"),
        ("saelens", "relu", {"d_out": D_IN}, "d_out is 16, the weights have 12"),
        ("saelens", "relu", {"d_in": 17}, "d_in is 17, the weights have 16"),
        ("saelens", "relu", {"architecture": "skip_transcoder"}, "has no tensor `W_skip`"),
        ("saelens", "relu", {"architecture": "jumprelu_transcoder"}, "has no tensor `threshold`"),
        ("saelens", "relu", {"architecture": "standard"}, "hook_name_out .* is not supported"),
        ("saelens", "relu", {"apply_b_dec_to_input": True}, "apply_b_dec_to_input True is not supported"),
        ("saelens", "relu", {"metadata": {"hook_head_index_out": 2}}, "hook_head_index_out 2 is not supported"),
        ("sparsify", "topk", {"skip_connection": True}, "has no tensor `W_skip`"),
        ("sparsify", "topk", {"signed": True}, "signed True is not supported"),
        ("sparsify", "topk", OUT_OF_LAYER, "hook_name_out is 'blocks.4.hook_mlp_out', but its layer 3"),
    ],
)
def test_what_changes_a_transcoder_is_refused(tmp_path, kind, architecture, changes, words):
    sae = random_transcoder(architecture, d_out=D_IN if kind == "sparsify" else D_OUT)
    MODULES[kind].write(tmp_path, sae, metadata(sae.config))
    file = tmp_path / MODULES[kind].FILES[0]
    write_json(file, merged(read_json(file), changes))
    with pytest.raises(AtlasError, match=words) as error:
        load_sae(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("kind", "architecture", "changes"),
    [
        (
            "saelens",
            "relu",
            {"dtype": "bfloat16", "device": "cuda:3", "l1_coefficient": 5, "seed": 1, "context_size": 128},
        ),
        ("saelens", "jumprelu", {"jumprelu_bandwidth": 0.05, "jumprelu_init_threshold": 0.01, "l0_coefficient": 2.0}),
        ("saelens", "relu", {"a_switch_of_tomorrow": False, "another": "none"}),
        ("saelens", "relu", {"activation_fn": "relu", "finetuning_scaling_factor": False}),
        ("saelens", "topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}),
        ("saelens", "relu", {"metadata": {"prepend_bos": False, "anything": [1], "l0": 5.5}}),
        ("saelens", "relu", {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": False}}}),
        ("saelens", "relu", {"metadata": {"hook_name_out": "blocks.3.hook_resid_post"}}),
        ("saelens", "relu", {"d_in": None, "d_sae": None, "dtype": None, "device": None}),
        (
            "sparsify",
            "topk",
            {"normalize_decoder": False, "multi_topk": True, "dtype": "float16", "encoder_pkm": False},
        ),
        ("sparsify", "topk", {"num_latents": 0, "expansion_factor": 4}),
        ("sparsify", "topk", {"num_latents": None, "expansion_factor": 4, "signed": False, "activation": None}),
        ("sparsify", "topk", {"transcode": None, "skip_connection": None, "metadata": None, "d_in": None}),
        ("dictionary_learning", "relu", {"trainer": {"norm_factor": 12.5, "lr": 1.0, "l1_penalty": 0.1, "seed": 3}}),
        ("dictionary_learning", "topk", {"trainer": {"k": None, "dict_size": None, "k_anneal_steps": 9}}),
        ("dictionary_learning", "jumprelu", {"trainer": {"bandwidth": 0.001, "target_l0": 20, "new": True}}),
        ("dictionary_learning", "topk", {"buffer": {"io": "in"}, "trainer": {"submodule_name": "resid_pre_layer_3"}}),
    ],
)
def test_what_does_not_is_ignored_and_nothing_harmless_is_demanded(tmp_path, kind, architecture, changes):
    assert_same_function(
        load_sae(written(tmp_path, kind, architecture, changes)), random_sae(architecture), activations()
    )


@pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
def test_configs_of_saelens_3_to_5_lie_flat(tmp_path, architecture):
    """They say how the model was processed; those before do not, and are refused."""
    folder = written(tmp_path, "saelens", architecture, {})
    file = folder / "cfg.json"
    config = read_json(file)
    flat = {key: config[key] for key in ("d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input")}
    flat |= {
        "architecture": "jumprelu" if architecture == "jumprelu" else "standard",
        "hook_layer": 3,
        "hook_head_index": None,
    }
    flat |= {"activation_fn_str": "topk" if architecture == "topk" else "relu", "finetuning_scaling_factor": False}
    flat |= {"activation_fn_kwargs": {"k": 5} if architecture == "topk" else {}, "normalize_activations": "none"}
    flat |= {
        "hook_name": "blocks.3.hook_resid_post",
        "model_name": "base-1b",
        "neuronpedia_id": None,
        "prepend_bos": True,
    }
    flat |= {"dataset_path": "a/b", "context_size": 128, "dataset_trust_remote_code": True, "seqpos_slice": [None]}
    write_json(file, flat | {"model_from_pretrained_kwargs": {}, "sae_lens_training_version": "5.3.0"})
    sae = load_sae(folder)
    assert_same_function(sae, random_sae(architecture), activations())
    assert sae.config["activations"] | {"base_model": None} == {"base_model": None, "site": "resid_post", "layer": 3}
    write_json(file, flat)
    with pytest.raises(AtlasError, match="written by SAELens before 6, and does not say how its model was processed"):
        load_sae(folder)


def test_a_scale_of_ones_is_nothing_and_any_other_is_refused(tmp_path):
    folder = written(tmp_path, "saelens", "relu", {})
    weights = folder / "sae_weights.safetensors"
    save_file(load_file(weights) | {"scaling_factor": torch.ones(D_SAE)}, weights)
    assert_same_function(load_sae(folder), random_sae("relu"), activations())
    save_file(load_file(weights) | {"scaling_factor": torch.full((D_SAE,), 1.5)}, weights)
    with pytest.raises(AtlasError, match="scaling_factor is not 1"):
        load_sae(folder)


def test_tensors_that_a_format_gained_later_are_optional(tmp_path):
    """dictionary_learning kept k and threshold of TopK nowhere but in its config; an AutoEncoder has neither."""
    folder = written(tmp_path, "dictionary_learning", "topk", {})
    tensors = load_tensors(folder / "ae.pt")
    save_tensors(folder / "ae.pt", {name: each for name, each in tensors.items() if name not in ("k", "threshold")})
    assert_same_function(load_sae(folder), random_sae("topk"), activations())
    plain = written(tmp_path / "b", "dictionary_learning", "relu", {})
    save_tensors(plain / "ae.pt", load_tensors(plain / "ae.pt") | {"threshold": torch.tensor(0.5)})
    with pytest.raises(AtlasError, match="unknown tensor `threshold`"):
        load_sae(plain)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("resid_post_layer_3", "resid_post"),
        ("mlp_out_layer_3", "mlp_out"),
        ("blocks.3.resid_pre", "resid_pre"),
        ("resid_post", "resid_post"),
        ("model.layers.3", "resid_post"),
        ("transformer.h.3.mlp", "transformer.h.{layer}.mlp"),
        ("mine", "mine"),  # no site of a config
        (None, None),
    ],
)
def test_what_dictionary_learning_calls_a_submodule_is_a_site_where_it_says_so(tmp_path, name, site):
    folder = written(tmp_path, "dictionary_learning", "topk", {"trainer": {"submodule_name": name}})
    activations = load_sae(folder).config["activations"]
    assert (activations["site"], activations["layer"]) == (site, 3)


@pytest.mark.parametrize(
    ("hook", "layer", "said"),
    [
        ("hook_embed", None, ("hook_embed", None)),
        ("ln_final.hook_normalized", None, ("ln_final.hook_normalized", None)),
        ("unembed", 3, ("unembed", 3)),
        (None, 7, (None, 7)),
        ("blocks.3.hook_resid_post", 3, ("resid_post", 3)),
    ],
)
def test_where_saelens_read_is_kept_also_where_no_site_of_ours_is_there(tmp_path, hook, layer, said):
    """So that import_sae, which compares it with the config, refuses it."""
    folder = written(tmp_path, "saelens", "relu", {"metadata": {"hook_name": hook, "hook_layer": layer}})
    activations = load_sae(folder).config["activations"]
    assert (activations["site"], activations["layer"]) == said
