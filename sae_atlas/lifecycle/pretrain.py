"""A model from scratch: GPT-2 or GPT-NeoX of a preset or of given sizes, trained on a corpus."""

from pathlib import Path

from sae_atlas.base_models.from_scratch import random_model
from sae_atlas.base_models.load import load_tokenizer
from sae_atlas.base_models.names import check_content
from sae_atlas.corpus import open_corpus
from sae_atlas.io.devices import resolve
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.io.log import logger
from sae_atlas.lifecycle.fit import fit
from sae_atlas.lifecycle.folder import model_args, whole_state, write_model


def pretrain(
    tokenizer: str | Path,
    corpus: str | Path,
    meta: str | Path,
    device: str = "auto",
    **settings,
) -> None:
    """Write the folder of `meta` (export_meta.json), a model (lifecycle.folder) trained by `fit` on the corpus' train contexts.

    settings: name, architecture, sizes (arguments of its transformers config), seed, fit, text (its name).
    Raises AtlasError before training if the folder's name says another architecture or size than is counted, or if the
    sizes make no model.
    """
    folder, target_device = Path(meta).parent, resolve(device)
    source, words = open_corpus(corpus), load_tokenizer(tokenizer)
    model = random_model(settings["architecture"], settings["sizes"], words, settings["seed"])
    args = model_args(model)
    check_content(folder.absolute(), args["architecture"], args["parameters"], "pretrain")
    if source.context > args["block_size"]:
        raise AtlasError(
            f"base_model.sizes: {args['block_size']} positions, the corpus has contexts of {source.context}"
        )
    logger.info("%s: %s parameters", folder.name, f"{args['parameters']:,}")
    model = model.to(target_device)
    fitted = fit(model, source, settings["fit"], settings["seed"], folder)
    reached = {"training_type": "pretrain", **fitted.reached(source, settings["text"])}
    states = {}
    for stem, weights in (("last", fitted.last), ("ckpt", fitted.best)):  # the best weights stay in the model
        model.load_state_dict(weights, strict=False)  # tied weights go by one name
        states[stem] = {name: tensor.clone() for name, tensor in whole_state(model).items()}
    with atomic(folder) as partial:
        partial.mkdir()
        write_model(partial, folder.name, model.cpu(), words, states, settings, reached)
