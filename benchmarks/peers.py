"""The other libraries' released trainers, given our weights; what each step does is in its docstring.

gradients(x) gives d loss / d weight under our names and shapes, `scale(x)` by how much their loss is larger than ours.
A library that is not installed is left out, with the reason.
"""

import contextlib
import io

import torch

from benchmarks.workloads import LEARNING_RATE, PENALTY, Work
from sae_atlas.kernels.measured import Weights

MANY = 1_000_000  # steps or tokens a trainer is told it has


class Peer:
    """parameters: ours by name -> (their parameter, whether it is stored transposed)."""

    TRANSCODERS = False  # whether it trains them

    def __init__(self, work: Work, weights: Weights, threads: int):
        self.threads = threads
        if work.pairs and not self.TRANSCODERS:
            raise NotImplementedError("it trains no transcoders")
        torch.set_num_threads(threads)
        with contextlib.redirect_stdout(io.StringIO()):
            self.build(work)
        with torch.no_grad():
            for name, (parameter, transposed) in self.parameters().items():
                parameter.copy_(weights[name].T if transposed else weights[name])

    def scale(self, x) -> float:
        return 1.0

    def gradients(self, x) -> Weights:
        torch.set_num_threads(self.threads)
        self.loss(x).backward()
        grads = {}
        for name, (parameter, transposed) in self.parameters().items():
            grads[name] = (parameter.grad.T if transposed else parameter.grad).clone()
            parameter.grad = None
        return grads


class SaeLens(Peer):
    """SAETrainer.step: loss, backward, clip, Adam, firing counts. Its decoder norms are free."""

    def build(self, work: Work) -> None:
        from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        if work.kind == "topk":
            sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=work.d_in, d_sae=work.d_sae, k=work.l0))
        else:
            keys = {"l1_coefficient": PENALTY, "l1_warm_up_steps": 0}
            sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=work.d_in, d_sae=work.d_sae, **keys))
        config = SAETrainerConfig(MANY * work.batch, work.batch, lr=LEARNING_RATE, lr_end=LEARNING_RATE)
        self.trainer = SAETrainer(config, sae, data_provider=iter(()))

    def parameters(self) -> dict:
        sae = self.trainer.sae
        return {
            "W_enc": (sae.W_enc, True),
            "b_enc": (sae.b_enc, False),
            "W_dec": (sae.W_dec, False),
            "b_dec": (sae.b_dec, False),
        }

    def loss(self, x):
        from sae_lens.saes.sae import TrainStepInput

        coefficients = self.trainer.get_coefficients()
        return self.trainer.sae.training_forward_pass(
            TrainStepInput(x, coefficients, None, 0, is_logging_step=False)
        ).loss

    def step(self, x) -> None:
        torch.set_num_threads(self.threads)
        self.trainer.step(x)
        self.trainer.n_training_steps += 1


class DictionaryLearning(Peer):
    """TopKTrainer.update and StandardTrainer.update: loss, backward, Adam, unit norms; TopK clips too."""

    def build(self, work: Work) -> None:
        keys = {"steps": MANY, "activation_dim": work.d_in, "dict_size": work.d_sae, "layer": 0, "lm_name": ""}
        keys |= {"lr": LEARNING_RATE, "warmup_steps": 0, "device": "cpu"}
        if work.kind == "topk":
            from dictionary_learning.trainers.top_k import TopKTrainer

            self.trainer = TopKTrainer(k=work.l0, **keys)
        else:
            from dictionary_learning.trainers.standard import StandardTrainer

            self.trainer = StandardTrainer(l1_penalty=PENALTY, sparsity_warmup_steps=None, **keys)
        self.steps = 1  # at 0 it would set b_dec itself

    def parameters(self) -> dict:
        ae = self.trainer.ae
        return {
            "W_enc": (ae.encoder.weight, False),
            "b_enc": (ae.encoder.bias, False),
            "W_dec": (ae.decoder.weight, True),
            "b_dec": (ae.b_dec if hasattr(ae, "b_dec") else ae.bias, False),
        }

    def loss(self, x):
        return self.trainer.loss(x, step=1)

    def step(self, x) -> None:
        torch.set_num_threads(self.threads)
        self.trainer.update(self.steps, x)
        self.steps += 1


class Sparsify(Peer):
    """The body of Trainer.fit around SparseCoder, which has no step of its own: norms, loss, backward, Adam, counts.

    Its loss is ours over the variance of the batch. It does not clip. Its encoder takes x - b_dec. TopK only; a transcoder's
    decoder rows keep the norms they get.
    """

    TRANSCODERS = True

    def build(self, work: Work) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        if work.kind != "topk":
            raise NotImplementedError("it has no L1")
        self.work, of_pairs = work, {"transcode": work.pairs, "skip_connection": work.skip}
        self.coder = SparseCoder(work.d_in, SparseCoderConfig(num_latents=work.d_sae, k=work.l0, **of_pairs))
        self.optimizer = torch.optim.Adam(self.coder.parameters(), lr=LEARNING_RATE)
        self.since_fired = torch.zeros(work.d_sae, dtype=torch.long)

    def parameters(self) -> dict:
        coder = self.coder
        return {
            "W_enc": (coder.encoder.weight, False),
            "b_enc": (coder.encoder.bias, False),
            "W_dec": (coder.W_dec, False),
            "b_dec": (coder.b_dec, False),
            **({} if coder.W_skip is None else {"W_skip": (coder.W_skip, False)}),
        }

    def scale(self, x) -> float:
        x, y = self.pair(x)
        return len(x) / float((y - y.mean(0)).square().sum())

    def pair(self, x):
        """Input, and what is rebuilt."""
        x, target = self.work.split(x)
        return x, x if target is None else target

    def loss(self, x):
        x, y = self.pair(x)
        return self.coder(x=x, y=y).fvu

    def step(self, x) -> None:
        torch.set_num_threads(self.threads)
        coder = self.coder
        x, y = self.pair(x)
        if not self.work.pairs:
            coder.set_decoder_norm_to_unit_norm()
        variance = (y - y.mean(0)).pow(2).sum()
        out = coder(x=x, y=y, dead_mask=None, total_variance=variance)
        out.fvu.backward()
        if not self.work.pairs:
            coder.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        fired = torch.zeros(coder.num_latents, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        self.since_fired += len(x)
        self.since_fired[fired] = 0


PEERS = {"sae_lens": SaeLens, "dictionary_learning": DictionaryLearning, "sparsify": Sparsify}
