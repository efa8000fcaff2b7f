"""
The smallest language model that learns: eight bytes in, two layers, the next byte out.

In numpy with derivatives by hand, so that the example needs no framework; 23,000 parameters.
The batch is small enough that no library splits a product among threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from batches import Bytes, Dropout, draw_batch, draw_probe
from checkpointing import Checkpoint
from numpy.typing import NDArray

Array = NDArray[np.float32]

CONTEXT = 8
WIDTH = 16
HIDDEN = 48
PROBE_SIZE = 128
BETA_1, BETA_2, EPSILON = np.float32(0.9), np.float32(0.99), np.float32(1e-8)


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters; they are part of the program, which the job's hash covers."""

    learning_rate: float = 3e-3
    batch: int = 16


class NumpyTrainer:
    """A model with its optimizer and its place in the data."""

    def __init__(self, text: Bytes, *, seed: int, recipe: Recipe | None = None) -> None:
        self.text = text
        self.seed = seed
        self.recipe = recipe or Recipe()
        self.step = 0
        self.cursor = 0
        self.dropout = Dropout(seed)
        generator = np.random.Generator(np.random.PCG64([seed, 1]))

        def draw(*shape: int) -> Array:
            scale = np.float32(shape[0] ** -0.5)
            return generator.standard_normal(shape, dtype=np.float32) * scale

        self.model: dict[str, Array] = {
            "bytes": draw(256, WIDTH),
            "inner.weight": draw(CONTEXT * WIDTH, HIDDEN),
            "inner.bias": np.zeros(HIDDEN, np.float32),
            "outer.weight": draw(HIDDEN, 256),
            "outer.bias": np.zeros(256, np.float32),
        }
        self.optimizer: dict[str, Array] = {
            f"{moment}.{name}": np.zeros_like(value)
            for moment in ("mean", "square")
            for name, value in self.model.items()
        }

    def train(self) -> None:
        """Do one step."""
        batch = self.draw(self.step)
        inputs, targets = self.dropout.hide(batch[:, :CONTEXT]), batch[:, CONTEXT]
        _, gradients = self.differentiate(inputs, targets)
        self.step += 1
        self.cursor += len(batch)
        self.update(gradients)

    def draw(self, step: int) -> Bytes:
        """Return the bytes of a step."""
        return draw_batch(
            self.text, seed=self.seed, step=step, size=self.recipe.batch, length=CONTEXT + 1
        )

    def measure(self) -> float:
        """Return the loss on the probe batch, in nats a byte."""
        probe = draw_probe(self.text, seed=self.seed, size=PROBE_SIZE, length=CONTEXT + 1)
        pieces = np.split(probe, PROBE_SIZE // Recipe.batch)
        losses = [self.differentiate(piece[:, :CONTEXT], piece[:, CONTEXT])[0] for piece in pieces]
        return sum(losses) / len(losses)

    def differentiate(self, inputs: Bytes, targets: Bytes) -> tuple[float, dict[str, Array]]:
        """Return the mean loss and its derivative by each weight."""
        model, rows = self.model, np.arange(len(inputs))
        embedded = model["bytes"][inputs].reshape(len(inputs), -1)
        inner = np.tanh(embedded @ model["inner.weight"] + model["inner.bias"])
        scores = inner @ model["outer.weight"] + model["outer.bias"]
        scores -= scores.max(axis=1, keepdims=True)
        chances = np.exp(scores)
        chances /= chances.sum(axis=1, keepdims=True)
        loss = float(-np.log(chances[rows, targets]).mean())

        slope = chances
        slope[rows, targets] -= 1
        slope /= np.float32(len(inputs))
        back = (slope @ model["outer.weight"].T) * (1 - inner * inner)
        spread = (back @ model["inner.weight"].T).reshape(-1, WIDTH)
        by_byte = np.zeros_like(model["bytes"])
        np.add.at(by_byte, inputs.reshape(-1), spread)
        return loss, {
            "bytes": by_byte,
            "inner.weight": embedded.T @ back,
            "inner.bias": back.sum(axis=0),
            "outer.weight": inner.T @ slope,
            "outer.bias": slope.sum(axis=0),
        }

    def update(self, gradients: dict[str, Array]) -> None:
        """Apply Adam (Kingma and Ba, 2015)."""
        rate = np.float32(
            self.recipe.learning_rate
            * np.sqrt(1 - float(BETA_2) ** self.step)
            / (1 - float(BETA_1) ** self.step)
        )
        for name, gradient in gradients.items():
            mean, square = self.optimizer[f"mean.{name}"], self.optimizer[f"square.{name}"]
            mean += (1 - BETA_1) * (gradient - mean)
            square += (1 - BETA_2) * (gradient * gradient - square)
            self.model[name] -= rate * mean / (np.sqrt(square) + EPSILON)

    def save(self) -> Checkpoint:
        """Return everything that the next step depends on."""
        return Checkpoint(
            step=self.step,
            cursor=self.cursor,
            loss=self.measure(),
            model={name: value.copy() for name, value in self.model.items()},
            optimizer={name: value.copy() for name, value in self.optimizer.items()},
            rng=self.dropout.save(),
        )

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.step, self.cursor = checkpoint.step, checkpoint.cursor
        self.model = {name: np.array(value) for name, value in checkpoint.model.items()}
        self.optimizer = {name: np.array(value) for name, value in checkpoint.optimizer.items()}
        self.dropout.load(checkpoint.rng)
