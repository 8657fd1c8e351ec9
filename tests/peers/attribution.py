"""Run by circuit-tracer's own environment (test_circuit_tracer.py): what it computes with exported transcoders.

A request is a file of torch.save: the `transcoders`' folder, and activations `x` [layers, tokens, d_in] to apply them to, or a
`model`'s folder and `prompts` (token ids) to attribute.
"""

import sys
import time

import torch
from circuit_tracer import ReplacementModel, attribute
from circuit_tracer.graph import compute_graph_scores
from circuit_tracer.utils.hf_utils import load_transcoder_from_hub

CPU = torch.device("cpu")


def apply(transcoders, x: torch.Tensor) -> dict:
    latents = transcoders.encode(x)
    return {"latents": latents, "output": transcoders.decode(latents, x)}


def graphs(transcoders, model: str, prompts: list[list[int]], **limits) -> dict:
    started = time.monotonic()
    replacement = ReplacementModel.from_pretrained_and_transcoders(model, transcoders, backend="nnsight", device=CPU)
    loaded = time.monotonic()
    results = [graph(replacement, prompt, limits) for prompt in prompts]
    per_prompt = (time.monotonic() - loaded) / len(prompts)
    return {"graphs": results, "load_seconds": loaded - started, "seconds_per_prompt": per_prompt}


def graph(replacement, prompt: list[int], limits: dict) -> dict:
    attributed = attribute(prompt, replacement, **limits)
    _, latents = replacement.get_activations(torch.tensor(prompt))
    return {
        "latents": latents,
        "active": attributed.active_features,
        "activations": attributed.activation_values,
        "adjacency": attributed.adjacency_matrix,
        "likeliest": attributed.logit_targets[0].token_str,
        "scores": compute_graph_scores(attributed),
    }


if __name__ == "__main__":
    request = torch.load(sys.argv[1], weights_only=True)
    # An absolute path is one into its cache, which holds folders of this format.
    transcoders, _ = load_transcoder_from_hub(request.pop("transcoders"), device=CPU, lazy_decoder=False)
    with torch.no_grad() if "x" in request else torch.enable_grad():
        torch.save((apply if "x" in request else graphs)(transcoders, **request), sys.argv[2])
