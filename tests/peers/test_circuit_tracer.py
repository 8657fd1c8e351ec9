"""circuit-tracer loads what we export and reads the model where we do; its graphs tell trained transcoders from random."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from random_saes import WITH_ENCODER, activations
from random_transcoders import save_release

from benchmarks.real import default
from sae_atlas.activations.save import save_activations
from sae_atlas.activations.shard import shard_activations
from sae_atlas.base_models.load import load, load_tokenizer, start_token
from sae_atlas.base_models.prepare import prepare
from sae_atlas.config.read import complete_recipe
from sae_atlas.corpus import tokenize
from sae_atlas.metrics.bootstrap import confidence_interval, resamples
from sae_atlas.publish.cards.names import checkpoint_name
from sae_atlas.publish.formats.circuit_tracer import export_release
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.sae import Sae
from sae_atlas.sites.hooks import capture_sites
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.job import as_arguments
from sae_atlas.training.train import train
from workflow import ROOT

PYTHON = ROOT / ".circuit-tracer/bin/python"
SITES = ["mlp_in", "mlp_out"]
LIMITS = {"max_feature_nodes": 256, "batch_size": 64}
TOKENS = 20_000
PROMPTS = (
    "The capital of France is",
    "The opposite of hot is",
    "Water is made of hydrogen and",
    "The sun rises in the",
    "She opened the door and walked",
    "The first president of the United States was George",
    "Two plus two equals",
    "A dog is a kind of",
    "The largest planet in the solar system is",
    "He played the piano and the",
    "In winter it is cold and in summer it is",
    "The author of the book wrote that the",
    "Bees make honey from the nectar of",
    "The river flows into the",
    "Once upon a time there was a little",
    "The computer is connected to the",
    "Rome is the capital of",
    "The doctor told the patient to take the",
    "One, two, three, four,",
    "The team won the game by a score of",
)


def circuit_tracer(folder: Path, **request) -> dict:
    """What circuit-tracer answers to a request of attribution.py, in its own environment and in this folder."""
    asked, answered = folder / "request.pt", folder / "answer.pt"
    torch.save(request, asked)
    subprocess.run(
        [PYTHON, Path(__file__).with_name("attribution.py"), asked, answered],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=True,
    )
    return torch.load(answered, weights_only=True)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", [name for name in WITH_ENCODER if name != "topk"])
def test_the_same_function(tmp_path, architecture, skip):
    release = save_release(tmp_path / "name", architecture, skip=skip)
    export_release(tmp_path / "name", tmp_path / "out")
    x = activations()
    theirs = circuit_tracer(tmp_path, transcoders=str(tmp_path / "out"), x=x.expand(len(release), *x.shape))
    for checkpoint, latents, output in zip(release, theirs["latents"], theirs["output"], strict=True):
        ours = Sae(**checkpoint)
        torch.testing.assert_close(latents, ours.encode(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output, ours(x), atol=1e-4, rtol=1e-5)


class Embedded:
    """The embedded model as the workflow prepares it, and what it computes of the prompts at both sites."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.provenance = folder / "model/provenance.json"
        section = default(TOKENS)["base_model"]
        prepare(self.provenance, **{key: section[key] for key in ("source", "package")})
        model, tokenizer = load(self.provenance, "float32", "cpu")[0], load_tokenizer(self.provenance)
        start, self.layers = start_token(tokenizer), list(range(model.config.num_hidden_layers))
        self.prompts = [[start, *tokenizer(prompt, add_special_tokens=False).input_ids] for prompt in PROMPTS]
        self.captured = []  # of every prompt: site -> layer -> [tokens, d]
        for prompt in self.prompts:
            with torch.inference_mode(), capture_sites(model, SITES, self.layers) as sites:
                model(torch.tensor([prompt]))
            self.captured.append({site: {layer: x[0] for layer, x in sites[site].items()} for site in SITES})

    def of_layer(self, site: str, layer: int) -> torch.Tensor:
        """[tokens, d] of all prompts, without their first tokens, which circuit-tracer leaves out, too."""
        return torch.cat([sites[site][layer][1:] for sites in self.captured])

    def graphs(self, release: Path, prompts: list[list[int]]) -> dict:
        """circuit-tracer's of the prompts, with the transcoders of a release."""
        folder = self.folder / "exported"
        export_release(release, folder)
        return circuit_tracer(
            self.folder, transcoders=str(folder), model=str(self.provenance.parent / "model"), prompts=prompts, **LIMITS
        )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Embedded:
    return Embedded(tmp_path_factory.mktemp("embedded"))


def save_random(
    folder: Path, embedded: Embedded, d_sae: int, l0: float = 8, like: Path | None = None, skip=False
) -> Path:
    """A release of random directions: on the prompts `l0` latents a token, and outputs of the MLP's mean and variance.

    like: a release whose latents per token and variance of outputs they have instead, layer by layer.
    """
    generator = torch.Generator().manual_seed(0)
    for layer in embedded.layers:
        x, y = (embedded.of_layer(site, layer) for site in SITES)
        width, size = x.shape[1], (y - y.mean(0)).norm()
        if like:
            trained = Sae.load(like / checkpoint_name(layer, "final"))
            l0 = float((trained.encode(x) > 0).sum(1).float().mean())
            size = (trained(x) - trained(x).mean(0)).norm()
        W_enc, W_dec = (torch.randn(shape, generator=generator) for shape in ((d_sae, width), (width, d_sae)))
        z = (x - x.mean(0)) @ W_enc.T
        last = round(l0 * len(z))
        # Between two values: at one of them rounding would decide.
        threshold = z.flatten().sort().values[-last - 1 : -last + 1].mean()
        output = z.where(z > threshold, 0) @ W_dec.T
        scale = size / (output - output.mean(0)).norm()
        state = {
            "encoder.weight": W_enc,
            "encoder.bias": -W_enc @ x.mean(0),
            "decoder.weight": W_dec * scale,
            "decoder.bias": y.mean(0) - output.mean(0) * scale,
            "threshold": threshold.expand(d_sae).clone(),
        }
        if skip:
            state["skip.weight"] = torch.randn(width, width, generator=generator) / width
        recipe = complete_recipe({"architecture": "batch_topk", "k": 8})
        activations = {"base_model": {}, "site": SITES[0], "target": SITES[1], "layer": layer}
        config = {"recipe": recipe, "d_in": width, "d_out": width, "d_sae": d_sae, "activations": activations}
        checkpoints.save(folder / checkpoint_name(layer, "final"), state, config, {})
    return folder


@pytest.mark.parametrize("skip", [False, True])
def test_a_graph_holds_our_latents_and_is_the_same_twice(embedded, tmp_path, skip):
    release = save_random(tmp_path / "random", embedded, 1152, skip=skip)
    theirs = embedded.graphs(release, 2 * embedded.prompts[:1])
    print(theirs["load_seconds"], theirs["seconds_per_prompt"])
    first, second = theirs["graphs"]
    assert first["likeliest"] == " Paris" and first["adjacency"].count_nonzero() > 1000
    assert first["scores"] == second["scores"] and torch.equal(first["adjacency"], second["adjacency"])
    ours = torch.zeros_like(first["latents"])
    for layer in embedded.layers:
        transcoder = Sae.load(release / checkpoint_name(layer, "final"))
        ours[layer, 1:] = transcoder.encode(embedded.captured[0]["mlp_in"][layer][1:])
    torch.testing.assert_close(first["latents"], ours, atol=1e-4, rtol=1e-4)
    layers, positions, latents = first["active"].T
    torch.testing.assert_close(first["activations"], ours[layers, positions, latents], atol=1e-4, rtol=1e-4)
    assert len(layers) == ours.count_nonzero() > 30 * 4  # about 8 latents of each of 5 tokens in 30 layers


def test_the_command_of_the_docs_draws_a_graph(embedded, tmp_path):
    """docs/circuits.md from the export on, with the folders of here; its server would not end."""
    release, circuits = save_random(tmp_path / "random", embedded, 1152), tmp_path / "circuits"
    export_release(release, circuits)
    text = (ROOT / "docs" / "circuits.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```\n(\S+/circuit-tracer attribute .*?)```", text, re.DOTALL)
    places = {"runs/transcoders/results/base_model/model": embedded.provenance.parent / "model"}
    places |= {"$PWD/runs/circuits": circuits, "runs/circuits": circuits, "--server": "", "\\\n": ""}
    for shown, here in places.items():
        assert shown in command
        command = command.replace(shown, str(here))
    subprocess.run(shlex.split(command), cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=True)
    graph = json.loads((circuits / "france.json").read_text(encoding="utf-8"))
    assert graph["metadata"]["prompt_tokens"] == ["<|endoftext|>", "The", " capital", " of", " France", " is"]
    assert len(graph["nodes"]) > 100 and any("Paris" in node["clerp"] for node in graph["nodes"])
    (listed,) = json.loads((circuits / "graph-metadata.json").read_text(encoding="utf-8"))["graphs"]
    assert listed["slug"] == "france"


def train_release(embedded: Embedded, release: Path, tokens: int, expansion: int, k: int) -> Path:
    """Transcoders of all layers on this much of the default's text. A store goes when its layer is trained."""
    config, folder = default(tokens, embedded.layers), embedded.folder
    config["activations"] |= {"site": SITES[0], "target": SITES[1]}
    atlas, corpus, saved = Atlas(config), folder / "corpus.zarr", folder / "saved.zarr"
    tokenize(embedded.provenance, corpus, **as_arguments(atlas.settings("tokenize")))
    window = {"snapshot": atlas.last}
    settings = as_arguments(atlas.settings("save_activations", **window))
    save_activations(embedded.provenance, corpus, saved, layers=embedded.layers, **settings)
    values = {"architecture": "batch_topk", "expansion": expansion, "k": k, "batch": 256, "learning_rate": 3e-3}
    recipe = complete_recipe(values | {"warmup": 20, "decay": 0.333, "dead_after": 5000})
    for layer in embedded.layers:
        store, checkpoint = folder / "store.zarr", release / checkpoint_name(layer, "final")
        shard_activations(saved, store, **as_arguments(atlas.settings("shard_activations", layer=layer, **window)))
        paths = {name: folder / f"layer.{name}" for name in ("resume", "curve")}
        train(store, recipe, 0, tokens, tokens, checkpoint, **paths, threads=2)
        shutil.rmtree(store)
    shutil.rmtree(saved)
    return release


def median_and_interval(values: list[float]) -> tuple[float, float, float]:
    medians = np.array([np.median(np.repeat(values, times)) for times in resamples(len(values))])
    return float(np.median(values)), *confidence_interval(medians)


@pytest.mark.parametrize(
    ("tokens", "expansion", "k"),
    [(20_000, 2, 16), pytest.param(120_000, 8, 32, marks=pytest.mark.long)],  # of the long one ten minutes are training
)
def test_trained_transcoders_explain_more_than_random_ones(embedded, tmp_path, tokens, expansion, k):
    """Replacement and completeness, circuit-tracer's own scores: medians over the prompts of small transcoders on little text,
    and with the default's sizes the medians' 95% intervals, which must not meet. TRANSCODERS: a release to take instead of
    training one.

    The scores count edges by their size, so noise earns some, too: random ones whose outputs have the variance of the MLP's,
    an FVU of 2, are as complete as ones trained on 20,000 tokens. Those compared here vary as the trained do.
    """
    given = os.getenv("TRANSCODERS")
    trained = Path(given) if given else train_release(embedded, tmp_path / "trained", tokens, expansion, k)
    d_sae = Sae.load(trained / checkpoint_name(0, "final")).d_sae
    releases = {"trained": trained, "random": save_random(tmp_path / "random", embedded, d_sae, like=trained)}
    scores = {}
    for name, release in releases.items():
        scores[name] = [graph["scores"] for graph in embedded.graphs(release, embedded.prompts)["graphs"]]
    for number, score in enumerate(("replacement", "completeness")):
        trained, random = (median_and_interval([each[number] for each in scores[name]]) for name in releases)
        print(f"{score}: trained {trained}, random {random}")
        lowest, highest = (trained[1], random[2]) if tokens > TOKENS else (trained[0], random[0])
        assert lowest > highest, f"{score}: trained {trained}, random {random}"
