"""A student: the base model's own architecture with a smaller hidden size, trained from scratch."""

import copy

import torch
from torch import Tensor, nn

LEAST_HEAD = 16  # dimensions of an attention head, where the base model's are not smaller


def student_config(config, width: int):
    """The base model's transformers config at hidden size `width`, a multiple of 8; at its own size, the same config.

    Depth, vocabulary and all else stay. As many attention heads as have 16 dimensions each (or the base model's fewer), the
    base model's number at most; key-value heads and the inner size of the MLP in its proportions.
    """
    small = copy.deepcopy(config)
    base_heads = config.num_attention_heads
    least = min(LEAST_HEAD, config.hidden_size // base_heads)
    fitting = [h for h in range(1, base_heads + 1) if width % (8 * h) == 0 and width // h >= least]
    heads = base_heads if width == config.hidden_size else max(fitting, default=1)
    small.hidden_size, small.num_attention_heads = width, heads
    if key_values := getattr(config, "num_key_value_heads", None):
        wanted = max(1, heads * key_values // base_heads)
        small.num_key_value_heads = max(h for h in range(1, wanted + 1) if heads % h == 0)
    if getattr(config, "head_dim", None):
        small.head_dim = config.head_dim if width == config.hidden_size else width // heads
    for inner in ("intermediate_size", "n_inner"):
        if size := getattr(config, inner, None):
            setattr(small, inner, max(1, size * width // config.hidden_size))
    return small


def make_student(config, width: int, seed: int) -> nn.Module:
    """A student with weights drawn from `seed`, float32, on the CPU; the generator outside is left as it was.

    It stays in evaluation mode in training, too: dropout would make the steps random and change the floor.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(student_config(config, width), dtype=torch.float32).eval()


class Teacher:
    """Predictions of the base model at a temperature, [..., vocabulary], with which students are compared."""

    def __init__(self, logits: Tensor, temperature: float):
        self.temperature = temperature
        logs = torch.log_softmax(logits.float() / temperature, dim=-1)
        self.probabilities = logs.exp()
        self.negentropy = torch.linalg.vecdot(self.probabilities, logs)

    def divergence(self, logits: Tensor) -> Tensor:
        """T^2 KL(teacher || student) at every position, in nats; 0 or more (Hinton, Vinyals and Dean 2015)."""
        logits = logits.float() / self.temperature
        crossed = torch.logsumexp(logits, dim=-1) - torch.linalg.vecdot(self.probabilities, logits)
        return self.temperature**2 * (self.negentropy + crossed)
