"""
A byte-level transformer in PyTorch: two layers, 135,000 parameters, a second a segment on one core.

One thread and deterministic algorithms, so that the same machine gives the same bytes; every random
number comes from numpy or from a seeded generator on the CPU, since those of GPUs differ by model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from batches import Bytes, Dropout, draw_batch, draw_probe
from checkpointing import Checkpoint, Tensors
from torch import Tensor, nn

CONTEXT = 32
WIDTH = 64
HEADS = 4
LAYERS = 2
PROBE_SIZE = 32


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters; they are part of the program, which the job's hash covers."""

    learning_rate: float = 2e-3
    batch: int = 16


class Block(nn.Module):  # type: ignore[misc]  # torch is in the image and not here
    """One transformer layer: attention to what came before, then two layers for each place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        # No bias: that of the keys changes no loss, so its slope would be rounding alone, which
        # differs between kinds of machines, and which Adam makes as large as any other step.
        self.mixing = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.joining = nn.Linear(WIDTH, WIDTH)
        self.inner, self.outer = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, states: Tensor, hidden: Tensor) -> Tensor:
        """Map (batch, length, width) to the same; `hidden` is true where nobody may look."""
        batch, length, _ = states.shape
        parts = self.mixing(self.first(states)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, WIDTH)
        states = states + self.joining(mixed)
        # Without a kink, at which machines that round otherwise would part.
        return states + self.outer(nn.functional.gelu(self.inner(self.second(states))))


class ByteModel(nn.Module):  # type: ignore[misc]  # as above
    """Bytes in, scores of the next byte out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.last, self.scores = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, length) of bytes to (batch, length, 256)."""
        length = tokens.shape[1]
        states = self.bytes(tokens) + self.places.weight[:length]
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        for block in self.blocks:
            states = block(states, hidden)
        return self.scores(self.last(states))


class TorchTrainer:
    """A model with its optimizer and its place in the data."""

    def __init__(self, text: Bytes, *, seed: int, recipe: Recipe | None = None) -> None:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)
        self.text, self.seed = text, seed
        self.recipe = recipe or Recipe()
        self.step = self.cursor = 0
        self.dropout = Dropout(seed)
        self.net = ByteModel()
        self.moments = {
            f"{moment}.{name}": torch.zeros_like(value)
            for moment in ("mean", "square")
            for name, value in self.net.state_dict().items()
        }

    def train(self) -> None:
        """Do one step."""
        batch = self.draw(self.step)
        loss = self.compute_loss(self.dropout.hide(batch[:, :-1]), batch[:, 1:])
        self.net.zero_grad()
        loss.backward()
        self.step += 1
        self.cursor += len(batch)
        self.update()

    def draw(self, step: int) -> Bytes:
        """Return the bytes of a step."""
        return draw_batch(
            self.text, seed=self.seed, step=step, size=self.recipe.batch, length=CONTEXT + 1
        )

    def compute_loss(self, inputs: Bytes, targets: Bytes) -> Tensor:
        """Return the mean loss, in nats a byte."""
        scores = self.net(torch.from_numpy(inputs.astype(np.int64)))
        wanted = torch.from_numpy(targets.astype(np.int64))
        return nn.functional.cross_entropy(scores.reshape(-1, 256), wanted.reshape(-1))

    def update(self) -> None:
        """Apply Adam, written out so that all of its state is two tensors a weight."""
        scale = (1 - 0.99**self.step) ** 0.5 / (1 - 0.9**self.step)
        for name, weight in self.net.named_parameters():
            mean, square = self.moments[f"mean.{name}"], self.moments[f"square.{name}"]
            mean.lerp_(weight.grad, 0.1)
            square.lerp_(weight.grad * weight.grad, 0.01)
            weight.data -= self.recipe.learning_rate * scale * mean / (square.sqrt() + 1e-8)

    def measure(self) -> float:
        """Return the loss on the probe batch."""
        probe = draw_probe(self.text, seed=self.seed, size=PROBE_SIZE, length=CONTEXT + 1)
        return float(self.compute_loss(probe[:, :-1], probe[:, 1:]))

    def save(self) -> Checkpoint:
        """Return everything that the next step depends on."""
        return Checkpoint(
            step=self.step,
            cursor=self.cursor,
            loss=self.measure(),
            model=_to_numpy(self.net.state_dict()),
            optimizer=_to_numpy(self.moments),
            rng=self.dropout.save(),
        )

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.step, self.cursor = checkpoint.step, checkpoint.cursor
        self.net.load_state_dict(_to_torch(checkpoint.model))
        self.moments = _to_torch(checkpoint.optimizer)
        self.dropout.load(checkpoint.rng)


def _to_numpy(tensors: dict[str, Tensor]) -> Tensors:
    return {name: value.detach().numpy().copy() for name, value in tensors.items()}


def _to_torch(tensors: Tensors) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
