"""Metadata of an exported SAE: base model, hook, text, normalisation, under SAELens' names where it has them."""

from sae_atlas.config.published import expansion
from sae_atlas.own_arrays.files import SITE
from sae_atlas.publish.cards.facts import Origin
from sae_atlas.publish.formats.hooks import hook_name, module_path


def metadata(config: dict, origin: Origin | None = None) -> dict:
    """Of a checkpoint's `config`. Without `origin` (base model and text of its run) only what is in the checkpoint."""
    activations, recipe = config["activations"], config["recipe"]
    site, layer, model = activations["site"], activations["layer"], activations["base_model"] or {}
    target = activations.get("target")
    source = model.get("source") or ""
    values = {
        "model_name": source.removeprefix("hub ") or None,
        "model_source": source or None,
        "model_revision": model.get("revision"),
        "model_weights_sha256": model.get("weights_sha256"),
        "hook_name": hook_name(site, layer) if site and layer is not None else None,
        "hook_name_out": hook_name(target, layer) if target and layer is not None else None,
        "hook_layer": layer,
        "site": site,
        "target": target,
        "architecture_trained": recipe["architecture"],
        "expansion": expansion(config["d_sae"], config["d_in"]),
        "training_tokens": config.get("tokens"),
        "normalize_activations": config.get("token_norm") or "none: centring and scaling are folded into the weights",
        "prepend_bos": None if site == SITE else True,
        "model_from_pretrained_kwargs": dict.fromkeys(activations.get("folded", ()), True) or None,
    }
    if origin is not None and origin.of_rows:
        values |= {"model_name": origin.base}
    elif origin is not None:
        values |= {
            "model_name": origin.hub_id or origin.base,
            "model_class_name": "AutoModelForCausalLM",
            "hf_hook_name": module_path(origin.model.get("sites"), site, layer),
            "hf_hook_name_out": module_path(origin.model.get("sites"), target, layer) if target else None,
        }
    if "pretrained" in recipe:
        values["published"] = recipe["pretrained"]
    elif origin is not None:
        text = origin.corpus["text"]
        values |= {
            "context_size": origin.context,
            "dataset_path": text["id"] if text["source"] == "hub" else origin.text,
            "dataset_source": origin.text_source,
        }
    return {key: value for key, value in values.items() if value is not None}
