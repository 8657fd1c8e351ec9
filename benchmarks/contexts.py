"""Time the contexts of all latents in one pass against a pass per latent: `python -m benchmarks.contexts [--toy]`.

Made-up activations of the default's shape, in memory, and as the workflow keeps them: in files, as float16. A pass per
latent is the leanest there is: for ReLU one dot product per token, for TopK the encoder, for a token's k largest are known
only from all latents; then the peak of every document and the k highest of them. Rounds are interleaved; medians.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import zarr
from zarr.codecs import Crc32cCodec

from sae_atlas.activations.save import ROWS_PER_CHUNK
from sae_atlas.features.text import Text
from sae_atlas.features.top_activations import TopActivations
from sae_atlas.features.top_contexts import batches, contexts_of
from sae_atlas.io.arrays import Rows
from sae_atlas.saes.sae import Sae

CONTEXT, DOCUMENT, K, WINDOW = 128, 105, 10, 24
FAR = 1e9  # no token is an outlier


def made_up_text(tokens: int, d_in: int) -> Text:
    generator = np.random.default_rng(0)
    contexts = tokens // (CONTEXT - 1)
    shape = contexts, CONTEXT
    mask = np.ones(shape, bool)
    mask[:, 0] = False
    documents = np.arange(contexts * CONTEXT).reshape(shape) // DOCUMENT
    topics = np.full(documents.max() + 1, None, object)
    x = generator.standard_normal((*shape, d_in), np.float32)
    return Text(0, generator.integers(1, 1000, shape, np.int32), mask, documents, topics, x)


def in_files(text: Text, folder: Path) -> Text:
    """The same text with its unmasked activations in chunks, as activations/save.py writes them."""
    values = text.activations[text.mask].astype(np.float16)
    chunks = (min(len(values), ROWS_PER_CHUNK), values.shape[1])
    options = {"chunks": chunks, "compressors": [Crc32cCodec()], "config": {"write_empty_chunks": True}}
    array = zarr.create_array(folder / "layer00", shape=values.shape, dtype=values.dtype, **options)
    array[:] = values
    return replace(text, activations=Rows(folder / "layer00", array, "activations"))


def made_up_sae(architecture: str, d_in: int, d_sae: int, l0: int) -> Sae:
    """Random directions; ReLU with a bias that leaves about `l0` latents active, TopK with that many."""
    encoder = torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(0)) / d_in**0.5
    bias = torch.full((d_sae,), -float(torch.distributions.Normal(0, 1).icdf(torch.tensor(1 - l0 / d_sae))))
    zero = torch.zeros(d_in)
    state = {"b_pre": zero, "encoder.weight": encoder, "encoder.bias": bias * (architecture == "relu")}
    state |= {"decoder.weight": encoder.T.contiguous(), "decoder.bias": zero}
    return Sae(state, {"recipe": {"architecture": architecture, "k": l0}, "d_in": d_in, "d_sae": d_sae})


def one_pass(text: Text, sae: Sae):
    kept = TopActivations(sae.d_sae, K, WINDOW)
    for batch in batches(text, sae, FAR):
        kept.add(batch.starts, batch.columns, batch.values, batch.text_position, batch.document)
    return contexts_of(text, kept)


def pass_of_one(text: Text, sae: Sae, latent: int) -> list[tuple[float, int]]:
    """(activation, document) of the K highest peaks of one latent."""
    best: dict[int, float] = {}
    for contexts, x in text.batches():
        if sae.k is None:
            values = ((x - sae.b_dec) @ sae.W_enc[:, latent] + sae.b_enc[latent]).relu().numpy()
        else:
            values = sae.encode(x)[:, latent].numpy()
        rows = slice(contexts.start, contexts.stop)
        active = np.flatnonzero(values)
        for value, document in zip(values[active], text.documents[rows][text.mask[rows]][active], strict=True):
            best[document] = max(best.get(document, 0.0), float(value))
    return sorted(((value, document) for document, value in best.items()), reverse=True)[:K]


def measure(text: Text, sae: Sae, rounds: int) -> str:
    d_sae = sae.d_sae
    one_pass(text, sae)  # compiles
    times = {"all": [], "one": []}
    for latent in np.random.default_rng(1).permutation(d_sae)[:rounds].tolist():
        start = time.perf_counter()
        table = one_pass(text, sae)
        middle = time.perf_counter()
        found = pass_of_one(text, sae, latent)
        times["all"].append(middle - start)
        times["one"].append(time.perf_counter() - middle)
        rows = table.to_pandas().query("latent == @latent and band == 'top'")
        np.testing.assert_allclose(rows.activation, [value for value, _ in found], rtol=1e-4)
    together, each = (statistics.median(times[name]) for name in ("all", "one"))
    return (
        f"all {d_sae} latents in one pass {together:.2f} s; one latent {each * 1e3:.1f} ms, "
        f"{d_sae} of them {each * d_sae:.0f} s: {each * d_sae / together:.0f}x"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="small sizes: does it run?")
    toy = parser.parse_args().toy
    sizes = (2_000, 32, 128, 8, 2) if toy else (8_000, 576, 4608, 32, 5)
    with torch.inference_mode():
        tokens, d_in, d_sae, l0, rounds = sizes
        text = made_up_text(tokens, d_in)
        with tempfile.TemporaryDirectory() as folder:
            for place, each in (("memory", text), ("files", in_files(text, Path(folder)))):
                for architecture in ("topk", "relu"):
                    sae = made_up_sae(architecture, d_in, d_sae, l0)
                    print(f"{architecture}, activations in {place}: {measure(each, sae, rounds)}")
