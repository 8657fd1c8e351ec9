"""How an SAE was trained, in words: ours from its recipe, one that others published as far as it says."""

from pathlib import Path

from sae_atlas.io.sizes import format_size
from sae_atlas.publish.cards.facts import Measured, Origin
from sae_atlas.publish.cards.markdown import number
from sae_atlas.saes.architectures import ARCHITECTURES, sparsity_words

UNKNOWN = "not stated by its source"


def training(origin: Origin, measured: Measured) -> dict[str, str]:
    """The lines under the card's heading Training, by label."""
    config, stats = measured.config, measured.last["stats"]
    recipe, tokens = config["recipe"], number(config["tokens"])
    if "pretrained" in recipe:
        stated, seen = config["stated"], stats["trained_tokens"]
        return {
            "Dataset": str(stated.get("dataset_path", UNKNOWN)),
            "Tokens Processed": f"{tokens} ({f'{number(seen)} by its own count' if seen else UNKNOWN})",
            "Batch Size": UNKNOWN,
            "Context Size": str(stated.get("context_size", UNKNOWN)),
            "Learning Rate": str(stated.get("lr", UNKNOWN)),
            "L1 Coefficient": f"{stated['l1_coeff']:g}, in a convention that is {UNKNOWN}"
            if "l1_coeff" in stated
            else UNKNOWN,
            "Seed": UNKNOWN,
        }
    trained, steps = number(stats["trained_tokens"]), number(stats["steps"])
    return {
        "Dataset": f"{origin.text} ({origin.text_source})",
        "Tokens Processed": f"{tokens} ({trained} activations trained on, in {steps} steps)",
        "Batch Size": f"{number(recipe['batch'])} tokens",
        "Context Size": f"{number(origin.context)} tokens",
        "Learning Rate": f"{number(recipe['learning_rate'])} ({_schedule(recipe)})",
        "L1 Coefficient": _l1(measured),
        "Seed": number(recipe["seed"]),
        **({"Start": start(recipe["start_from"])} if "start_from" in recipe else {}),
        **({"Fine-tuning": _finetuning(recipe["finetune"], stats)} if "finetune" in recipe else {}),
    }


def start(start_from: dict) -> str:
    """The weights at which training began, in place of random directions."""
    if "path" in start_from:
        source = f"the SAE {Path(start_from['path']).name}"
    else:
        snapshot = f", after {format_size(start_from['snapshot'])} tokens" if "snapshot" in start_from else ""
        layer = {None: "", "previous": ", layer before this one"}.get(
            layer := start_from.get("layer"), f", layer {layer}"
        )
        source = f"recipe {start_from['recipe']}{layer}{snapshot}"
    return f"the weights of {source}; Adam began anew"


def _finetuning(finetune: dict, stats: dict) -> str:
    """What the last tokens minimised beside the recipe's own loss."""
    kl = f"{number(stats['kl'])} nats per prediction at the end, on the training stream"
    return (
        f"the last {number(finetune['tokens'])} tokens minimised KL(clean || patched) of the base model's predictions as well, "
        f"weighted to pull at the reconstruction as strongly as the squared error ({kl}; arXiv 2503.17272)"
    )


def loss(measured: Measured) -> str:
    stats = measured.last["stats"]
    if "loss" not in stats:
        return UNKNOWN
    squared = number(stats["reconstruction"])
    words = f"{number(stats['loss'])} per token of the training stream (squared error {squared})"
    return f"{words}, where the activations have variance 1"


def published_by(recipe: dict) -> str:
    """Where an SAE of others came from."""
    pretrained = recipe.get("pretrained", {})
    origin = pretrained.get("id") or pretrained.get("path", "").rstrip("/").rsplit("/", 1)[-1]
    revision = f" at {pretrained['revision']}" if "revision" in pretrained else ""
    file = pretrained.get("file") or "{"
    named = "" if "{" in file else f", {file}"  # a pattern with a layer in it is the same for all
    listed = (
        f" ({pretrained['sae']} of {pretrained['release']}, as SAELens lists it)" if "release" in pretrained else ""
    )
    return f"{pretrained.get('source')} {origin}{revision}{named}{listed}, format {pretrained.get('format')}"


def _schedule(recipe: dict) -> str:
    low, high = recipe["adam_betas"]
    warmup = f"warm-up of {number(recipe['warmup'])} steps" if recipe["warmup"] else "no warm-up"
    decay = f"linear decay to 0 over the last {recipe['decay']:.0%} of the tokens" if recipe["decay"] else "no decay"
    return f"Adam, betas {low:g} and {high:g}, {warmup}, {decay}, gradient norm clipped at {recipe['clip']:g}"


def _l1(measured: Measured) -> str:
    """Lambda as stated and in the canonical convention, and where a controller left it."""
    penalty = measured.config.get("lambda")
    if penalty is None:
        recipe = measured.config["recipe"]
        return f"none ({ARCHITECTURES[recipe['architecture']].label}, {sparsity_words(recipe)})"
    words = f"{penalty['stated']:g} in the convention {penalty['convention']}, {number(penalty['canonical'])} canonical"
    l1 = measured.config["recipe"]["l1"]
    target, powered = l1["target_l0"], ""
    if "anneal_to" in l1:
        powered = (
            f"; of the latents to a power that falls from 1 to {l1['anneal_to']:g} over the training (arXiv 2408.00113)"
        )
    if target is None:
        return f"{words}, fixed{powered}"
    stats = measured.last["stats"]
    reached = "reached" if stats["converged"] else "NOT reached"
    l0 = f"at the end {number(stats['settled_l0'])} on the training stream"
    last = number(penalty["last"])
    return f"starts at {words}; steered to an L0 of {target:g}, which was {reached} ({l0}); ends at {last} canonical{powered}"
