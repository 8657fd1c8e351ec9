"""What the heavy jobs have to do: tokens, arithmetic, bytes, memory. Counted from the config alone.

All other jobs take the start of a process and little more. Memory is the sum of the arrays that are there at once, on a CPU;
benchmarks/LOAD.md has it beside what was measured. On a GPU weights, averages and gradients lie there.
"""

from dataclasses import dataclass, fields, replace

from sae_atlas.config.own_models import MADE, base_of
from sae_atlas.config.without_model import rows_needed
from sae_atlas.own_arrays.files import BYTES_AT_ONCE
from sae_atlas.plan.jobs import job_cells
from sae_atlas.plan.shape import Shape
from sae_atlas.saes.architectures import ARCHITECTURES, uses
from sae_atlas.stages.activations import saved_dtype
from sae_atlas.stages.sisters import other_seeds
from sae_atlas.stages.tasks import WORDS, on_documents, on_words, task_tokens

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}  # of a value, before it is compressed
SINGLE = 4  # bytes of a float32
FITTED = 16  # bytes of a parameter in training: value, gradient, two averages
LIBRARIES = 0.5e9  # bytes: torch, transformers and numba with what they set up
DENSITY = 0.05  # share of the latents taken as active where the config does not say
MEDIAN_ROWS = 8192  # sampled of every store for its geometric median
# Tokens worked on at once, as the stages have it.
ROWS_AT_ONCE = {"saved": 4096, "step": 256, "measured": 1024, "contexts": 512}
# In memory, of a token and latent: z or the int8 product, columns, values; z, the positive, the largest, their positions.
TRAINED, ENCODED = 12, 20
DRAWN = 8  # bytes that a random number of a synthetic row moves
POINTS = 8  # numbers of layers that transcoders replace, as metrics/replaced_layers.py has it


@dataclass(frozen=True)
class Work:
    """A job; or all jobs of a rule together, with the memory of the largest."""

    rule: str
    jobs: int = 1
    tokens: int = 0  # that pass through it, each time they pass
    matmul_flops: float = 0.0
    bytes_moved: float = 0.0  # through memory beside the products
    written: float = 0.0  # bytes to disk
    read: float = 0.0  # bytes from disk
    memory: float = 0.0  # bytes; 0 where it is little more than the libraries

    def __add__(self, other: "Work") -> "Work":
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)[1:-1]}
        return Work(self.rule, **sums, memory=max(self.memory, other.memory))


def count(atlas, shape: Shape | None) -> list[Work]:
    """Work of every rule in the order data flows. Without a shape only jobs and tokens are counted."""
    jobs = Jobs(atlas, shape or Shape(1, 1, 1, 1, 1, 1))
    rules = []
    for rule, cells in job_cells(atlas).items():
        first, *others = (jobs.work(rule, cell) for cell in cells)
        work = sum(others, start=first)
        rules.append(work if shape else Work(rule, work.jobs, work.tokens))
    return rules


class Jobs:
    """A method per rule that is heavy: what its job of one cell has to do, as fields of Work."""

    def __init__(self, atlas, shape: Shape):
        self.atlas, self.config, self.shape = atlas, atlas.config, shape
        self.d_in = shape.d_model  # of every site we name; a module path may have another
        self.context = self.config["corpus"]["context"]
        # Values of a row of a store: of transcoders the input and the target, which are taken to be as wide.
        self.row = self.d_in * (2 if "target" in self.config["activations"] else 1)
        self.saved_value = BYTES[saved_dtype(atlas)]
        self.saved = self.saved_value * self.row  # bytes of a token in a layer
        self.model_value = BYTES[self.config["base_model"]["dtype"]]
        # Memory of the base model, and of its file, which is read through memory.
        self.model = LIBRARIES + shape.parameters * (self.model_value + shape.value_bytes)
        self.held_out, self.patched = (self.config["evaluation"][key] for key in ("tokens", "patched_tokens"))
        if atlas.of_rows:  # no model is run
            self.patched = 0

    def work(self, rule: str, cell: dict) -> Work:
        return Work(rule, **(getattr(self, rule)(**cell) if hasattr(self, rule) else {}))

    def latents(self, recipe: str) -> int:
        return self.config["recipes"][recipe].get("d_sae") or self.atlas.expansion(recipe) * self.d_in

    def weights(self, recipe: str) -> int:
        """Of encoder and decoder: as many FLOPs as a token takes in one of them."""
        return 2 * self.latents(recipe) * self.d_in

    def gram(self, recipe: str) -> int:
        """Numbers of the products of all latents with each other, which matching pursuit keeps."""
        kind = ARCHITECTURES[self.config["recipes"][recipe]["architecture"]]
        return self.latents(recipe) ** 2 if kind.inference == "pursuit" else 0

    def encoding(self, recipe: str, rows: str, saes: int = 1) -> float:
        """Memory of encoding ROWS_AT_ONCE[rows] tokens by SAEs in turn, beside their weights."""
        return ENCODED * ROWS_AT_ONCE[rows] * self.latents(recipe) + saes * SINGLE * self.gram(recipe)

    def active(self, recipe: str) -> float:
        """Latents active per token, as far as the recipe says."""
        said = self.config["recipes"][recipe]
        target = said.get("l1", {}).get("target_l0") or said.get("jumprelu", {}).get("target_l0")
        return said.get("k") or target or DENSITY * self.latents(recipe)

    def forward(self, blocks: int, head: bool = True) -> float:
        if self.atlas.of_rows:
            return 0
        return self.shape.forward(blocks, self.context, head)

    def above(self, layer: int) -> float:
        """FLOPs of the patched tokens through what lies above a layer."""
        return self.patched * self.forward(self.shape.n_layers - 1 - layer)

    def pass_memory(self, contexts: int, logits: bool) -> float:
        """What a block makes on the way, as many numbers per token as it has weights per dimension, and the mask; two passes'
        logits, in float32 and as probabilities. Of saved activations the part of a file that is in memory."""
        if self.atlas.of_rows:
            return 2 * BYTES_AT_ONCE
        numbers = contexts * self.context * self.shape.block_weights / self.d_in + self.context**2
        return numbers * self.model_value + logits * 4 * SINGLE * contexts * self.context * self.shape.vocabulary

    # --- base model and text --------------------------------------------------------------------------------------

    def prepare_model(self) -> dict:
        if self.atlas.has_truth:  # rows are drawn: a number for every row and feature, and the rows are written
            drawn, rows = self.config["base_model"]["generator"], rows_needed(self.config["corpus"])
            memory, rows = LIBRARIES + 12 * rows * drawn["l0"], rows * drawn["layers"]
            moved, written = DRAWN * rows * drawn["features"], SINGLE * rows * drawn["d"]
            return {"tokens": rows, "bytes_moved": moved, "written": written, "memory": memory}
        by_our_rules = self.config["base_model"]["source"] in MADE  # and used in place
        return {"written": 0 if by_our_rules else self.shape.parameters * self.shape.value_bytes, "memory": self.model}

    def prepare_base(self) -> dict:
        return {"memory": self.model}

    def tokenize(self, rule: str = "tokenize") -> dict:
        """Written: ids and the mask. Memory: libraries, shuffled documents and a vocabulary of 49,152 take 0.7e9 bytes; a token
        6, with its share of the numbers per context.
        """
        settings = self.atlas.settings(rule)
        tokens = settings["train_tokens"] + settings["held_out_tokens"]
        id_bytes = next(size for size in (1, 2, 4) if self.shape.vocabulary <= 2 ** (8 * size))  # as corpus.py has it
        return {"tokens": tokens, "written": tokens * (id_bytes + 1), "memory": 0.7e9 + 6 * tokens}

    def tokenize_domain(self) -> dict:
        return self.tokenize("tokenize_domain")

    def pretrain(self) -> dict:
        """Forward, and backward twice as much; the best, the last and the published weights."""
        fit, parameters = base_of(self.config["base_model"])["fit"], self.shape.parameters
        return {"written": 3 * SINGLE * parameters, **self.fitted(fit, 3, LIBRARIES + FITTED * parameters)}

    def fine_tune_lora(self) -> dict:
        """The base's weights have no gradient: backward is as much as forward, and the updates little beside both."""
        return self.fitted(self.config["base_model"]["fit"], 2, self.model)

    def fitted(self, fit: dict, passes: int, memory: float) -> dict:
        """Training of a language model: what every block makes is kept for the way back."""
        contexts = fit["batch"] // fit["accumulation"]
        memory += (self.shape.n_layers - 1) * self.pass_memory(contexts, logits=False)
        memory += self.pass_memory(contexts, logits=True)
        flops = passes * fit["tokens"] * self.forward(self.shape.n_layers)
        return {"tokens": fit["tokens"], "matmul_flops": flops, "memory": memory}

    def merge_lora(self) -> dict:
        return {"written": 2 * SINGLE * self.shape.parameters, "memory": 2 * self.model}

    # --- activations and training ---------------------------------------------------------------------------------

    def save_activations(self, snapshot: str, group: str) -> dict:
        return self.one_pass(self.window(snapshot), self.atlas.groups[group], self.row)

    def save_text(self, part: str) -> dict:
        """Layers, and those next to them, are read in one pass per group, as for training; what is encoded alone."""
        return self.one_pass(self.config["features"]["tokens"], self.atlas.text_groups[part], self.d_in)

    def one_pass(self, tokens: int, layers: list[int], width: int) -> dict:
        """width: values of a token that are saved of a layer."""
        contexts = self.config["activations"]["contexts_per_batch"]
        waiting = width * (ROWS_AT_ONCE["saved"] * self.saved_value + contexts * self.context * SINGLE)
        memory = self.model + self.pass_memory(contexts, logits=False) + len(layers) * waiting
        flops = tokens * self.forward(layers[-1] + 1, head=False)
        written = tokens * len(layers) * width * self.saved_value
        return {"tokens": tokens, "matmul_flops": flops, "written": written, "memory": memory}

    def window(self, snapshot: str) -> int:
        start, stop = self.atlas.window(snapshot)
        return stop - start

    def stored(self, tokens: int) -> float:
        return tokens * self.row * BYTES[self.config["activations"]["dtype"]]

    def shard_activations(self, snapshot: str, layer: int) -> dict:
        """The geometric median takes some 100 steps in float64 over its sample (2,000 bytes a value), 5 of which are in memory.

        Memory: a shard, encoded once more when it is written; and of every token its norm, a sorted copy, its number.
        """
        tokens, sample = self.window(snapshot), MEDIAN_ROWS * self.row
        shard = min(self.config["activations"]["shard_rows"], tokens) * self.saved
        return {
            "tokens": tokens,
            "bytes_moved": 8 * tokens * self.saved + 2000 * sample,
            "read": 2 * tokens * self.saved,
            "written": self.stored(tokens),
            "memory": LIBRARIES + max(3 * shard, 5 * 8 * min(sample, tokens * self.row)) + 16 * tokens,
        }

    def train_sae(self, recipe: str, layer: int, snapshot: str) -> dict:
        """FLOPs: the encoder; of an active entry decoding and two gradients. Adam moves 28 bytes a weight: the weight and two
        averages are read and written, the gradient is read. Written: a checkpoint, and the resume file with both averages.

        Memory: weights, averages and gradients, the encoder in int8; where many latents may be active the gradients of groups;
        5 chunks of the store: read ahead, in hand and cut up.
        """
        tokens = self.window(snapshot)
        chunks = 5 * self.config["activations"]["chunk_rows"] * self.row * SINGLE
        work, written = self.steps(recipe, tokens), 4 * SINGLE * self.weights(recipe)
        return work | {"read": self.stored(tokens), "written": written, "memory": LIBRARIES + work["memory"] + chunks}

    def steps(self, recipe: str, tokens: int) -> dict:
        weights, latents, said = self.weights(recipe), self.latents(recipe), self.config["recipes"][recipe]
        copies = (4 if uses(said["architecture"], "k") else 8) + 1 / 8
        step, steps, gram = TRAINED * ROWS_AT_ONCE["step"], tokens / said["batch"], self.gram(recipe)
        taken = said["k"] if gram else 0  # one after the other: a row of `gram` each, and what it moves in the decoder
        return {
            "tokens": tokens,
            "matmul_flops": tokens * (weights + 3 * 2 * self.active(recipe) * self.d_in) + steps * gram * self.d_in,
            "bytes_moved": steps * 28 * weights + SINGLE * tokens * taken * latents,
            "memory": copies * SINGLE * weights + step * latents + SINGLE * (gram + said["batch"] * taken * self.d_in),
        }

    def finetune_sae(self, recipe: str, layer: int, snapshot: str) -> dict:
        """The steps; a clean pass, a patched one from the layer on, and its way back, which is as much, for the model's weights
        have no gradient. What the blocks above make on the way is kept for it.
        """
        tokens = self.config["recipes"][recipe]["finetune"]["tokens"]
        work, above = self.steps(recipe, tokens), self.shape.n_layers - 1 - layer
        contexts = self.config["evaluation"]["contexts_per_batch"]
        memory = self.model + (above + 1) * self.pass_memory(contexts, logits=False)
        memory += self.pass_memory(contexts, logits=True) + work["memory"]
        flops = tokens * (self.forward(self.shape.n_layers) + 2 * self.forward(above))
        written = SINGLE * self.weights(recipe)
        return work | {"matmul_flops": work["matmul_flops"] + flops, "written": written, "memory": memory}

    def import_sae(self, recipe: str, layer: int, snapshot: str) -> dict:
        """And the base model in float32, on which the norm or the biases are measured that some read without."""
        work, model = self.import_start(recipe, layer), self.shape.parameters * (SINGLE + self.shape.value_bytes)
        reads = "reads" in self.atlas.settings("import_sae", recipe=recipe, layer=layer, snapshot=snapshot)
        return work | {"memory": work["memory"] + reads * model}

    def import_start(self, recipe: str, layer: int) -> dict:
        return {"written": SINGLE * self.weights(recipe), "memory": LIBRARIES + 3 * SINGLE * self.weights(recipe)}

    def model_card(self, recipe: str, layer: int) -> dict:
        """The checkpoint and the SAELens pair."""
        return {"written": 2 * SINGLE * self.weights(recipe), "memory": LIBRARIES + 3 * SINGLE * self.weights(recipe)}

    # --- measurement ----------------------------------------------------------------------------------------------

    def save_held_out(self) -> dict:
        layers = self.atlas.layers
        clean = self.held_out * self.forward(self.shape.n_layers, head=False) + 2 * self.patched * self.forward(0)
        return {
            "tokens": self.held_out + 2 * self.patched * len(layers),
            "matmul_flops": clean + 2 * sum(map(self.above, layers)),
            "written": SINGLE * (self.row * self.held_out * len(layers) + self.d_in * self.patched),
            "memory": self.model + self.pass_memory(self.config["evaluation"]["contexts_per_batch"], logits=True),
        }

    def evaluate_sae(self, recipe: str, layer: int) -> dict:
        """Directions are compared twice: the nearest, and how far they have settled since the snapshot before.

        Memory: all snapshots, and the directions of two of them, as they are and of unit length.
        """
        snapshots, weights = len(self.atlas.snapshots_of(recipe)), self.weights(recipe)
        flops = self.patched * self.forward(0)
        flops += snapshots * (self.above(layer) + 2 * weights * self.held_out)
        compared = self.compared(recipe, 2 * snapshots)["matmul_flops"]
        measured = (snapshots + 2) * SINGLE * weights + self.encoding(recipe, "measured", snapshots)
        read = SINGLE * (self.row * self.held_out + self.d_in * self.patched)
        memory = self.save_held_out()["memory"] + measured
        return {"tokens": self.held_out * snapshots, "matmul_flops": flops + compared, "read": read, "memory": memory}

    def known_truth(self, recipe: str, layer: int) -> dict:
        """Of all latents the cosines with all true features, three times, and of the held-out rows those that are active."""
        latents, snapshots = self.latents(recipe), len(self.atlas.snapshots_of(recipe))
        features = self.config["base_model"]["generator"]["features"]
        flops = snapshots * (self.weights(recipe) * self.held_out + 2 * features * latents * self.d_in)
        cosines = 3 * 2 * SINGLE * features * latents + SINGLE * self.weights(recipe)
        entries = 6 * 16 * self.held_out * (self.active(recipe) + self.config["base_model"]["generator"]["l0"])
        memory = LIBRARIES + cosines + entries + self.encoding(recipe, "measured")
        return {"tokens": self.held_out * snapshots, "matmul_flops": flops, "memory": memory}

    def replace_layers(self, recipe: str) -> dict:
        """Two passes for every number of layers; half of all transcoders on average, all of them in memory."""
        layers, weights = len(self.atlas.layers), self.weights(recipe)
        points = min(POINTS, layers)
        flops = points * self.patched * (2 * self.forward(self.shape.n_layers) + layers / 2 * 2 * weights)
        memory = self.save_held_out()["memory"] + layers * SINGLE * weights
        return {"tokens": 2 * points * self.patched, "matmul_flops": flops, "memory": memory}

    def save_task_text(self, group: str) -> dict:
        return self.one_pass(task_tokens(self.atlas), self.atlas.groups[group], self.d_in)

    def save_words(self, group: str) -> dict:
        """A word's line has 8 tokens, and of five lines one is an example. All words of all layers wait in memory, twice."""
        work = self.one_pass(10 * WORDS, self.atlas.groups[group], self.d_in)
        values = WORDS * self.d_in * len(self.atlas.groups[group])
        return work | {"written": values * self.saved_value, "memory": work["memory"] + 2 * SINGLE * values}

    def measure_tasks(self, recipe: str, layer: int) -> dict:
        """All snapshots and random directions. Memory: latents of documents of 50 tokens and of words, copied thrice."""
        words, text = WORDS * on_words(self.atlas), task_tokens(self.atlas) * on_documents(self.atlas)
        encoders, weights = len(self.atlas.snapshots_of(recipe)) + 1, self.weights(recipe)
        memory = SINGLE * (encoders * weights + 4 * self.latents(recipe) * (text / 50 + words))
        memory, tokens = LIBRARIES + memory + self.encoding(recipe, "measured", 2), encoders * (text + words)
        return {"tokens": tokens, "matmul_flops": tokens * weights, "memory": memory}

    def compared(self, recipe: str, times: int) -> dict:
        """The cosines of all latents of one SAE with all of another: of both, directions as they are and of unit length."""
        flops = times * 2 * self.latents(recipe) ** 2 * self.d_in
        return {"matmul_flops": flops, "memory": LIBRARIES + 4 * SINGLE * self.weights(recipe)}

    def match_layers(self, recipe: str) -> dict:
        return self.compared(recipe, len(self.atlas.layers) - 1)

    def match_seeds(self, recipe: str) -> dict:
        """And random directions against each of the others."""
        return self.compared(recipe, 2 * len(self.atlas.layers) * len(other_seeds(self.atlas, recipe)))

    def evolution(self, recipe: str, layer: int) -> dict:
        """Earlier snapshots and two layers, and the snapshots once more: how far directions have moved."""
        return self.compared(recipe, len(self.atlas.snapshots_of(recipe)) + 1)

    def explorer(self) -> dict:
        """All latents of a layer with each other."""
        each = [self.compared(recipe, len(self.atlas.feature_layers)) for recipe in self.atlas.recipes]
        flops = sum(compared["matmul_flops"] for compared in each)
        return {"matmul_flops": flops, "memory": max(compared["memory"] for compared in each)}

    def distill(self) -> dict:
        """The base model once, every student forward and backward; evaluations run heads and students forward alone.

        Two contexts' logits are there at a time.
        """
        students = self.config["floors"]["students"]
        tokens = students["steps"] * students["batch"] * self.context
        measured = students["evaluations"] * students["held_out_tokens"]
        flops = (tokens + students["held_out_tokens"]) * self.forward(self.shape.n_layers) + measured * self.forward(0)
        memory = self.model + 2 * self.pass_memory(2, logits=True)
        for width in students["widths"]:
            scaled = self.shape.block_weights * (width / self.d_in) ** 2
            student = replace(self.shape, d_model=width, block_weights=scaled)
            forward = student.forward(self.shape.n_layers, self.context, True)
            flops += students["seeds"] * (3 * tokens + measured) * forward
            weights = self.shape.n_layers * scaled + 2 * self.shape.vocabulary * width
            memory += students["seeds"] * FITTED * weights
        return {"tokens": tokens, "matmul_flops": flops, "memory": memory}

    # --- what the latents mean ------------------------------------------------------------------------------------

    def text(self) -> tuple[int, float]:
        """Tokens of the text that contexts are taken from, and bytes of a layer's activations of it, which are read twice."""
        features = self.config["features"]
        of_held_out = features["split"] == "held_out"
        tokens = self.held_out if of_held_out else features["tokens"]
        return tokens, 2 * tokens * self.d_in * (SINGLE if of_held_out else self.saved_value)

    def top_contexts(self, recipe: str, layer: int) -> dict:
        """The encoder over the text, and the logits of every decoder row. Memory: the contexts of all latents; what is kept by
        document depends on the text and comes on top.

        Written: all that is said about the latents of a layer, by later rules too. Bytes of a row, of a token in its window, of
        a latent, of an active entry and of a token as measured on SmolLM2-135M (4,608 latents, TopK 32, 40k tokens, documents
        of 64), where the sum comes within a quarter; where few latents are alive it is an upper bound.
        """
        (tokens, read), latents, weights = self.text(), self.latents(recipe), self.weights(recipe)
        contexts, window = (self.config["features"][key] for key in ("contexts", "window"))
        rows = contexts + 3 * max(1, contexts // 3)  # kept of a latent: the highest, and of three bands below
        written = latents * (rows * (20 + 2 * window) + 226)
        written += tokens * (6.3 * self.active(recipe) + 18 + SINGLE * self.d_in / 64)
        per_latent = (
            contexts * (5 * 22 + 5 * SINGLE * window) + 8 * 128 + 40
        )  # of a latent, and a histogram of its activations
        return {
            "tokens": tokens,
            "matmul_flops": tokens * weights + latents * self.forward(0),
            "read": read,
            "written": written,
            "memory": self.model + 1.5 * SINGLE * weights + latents * per_latent + self.encoding(recipe, "contexts"),
        }

    def contexts_of_matches(self, recipe: str, layer: int) -> dict:
        """The encoders of the earlier snapshots and of the layers beside, over the text that top_contexts reads."""
        (tokens, read), weights = self.text(), self.weights(recipe)
        encoders = len(self.atlas.snapshots_of(recipe)) - 1 + len(self.atlas.neighbour_layers(layer))
        memory = LIBRARIES + 3 * SINGLE * weights + self.encoding(recipe, "contexts")
        flops = tokens * encoders * weights
        return {"tokens": tokens * encoders, "matmul_flops": flops, "read": encoders * read, "memory": memory}
