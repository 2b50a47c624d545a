"""Another trainer: classify handwritten digits. `python examples/digits/digits.py`, half a minute on a laptop.

Data set, model, loss, optimizer and schedule are plain PyTorch, named in digits.yaml. The trainer says what a step
computes and what a validation reports. docs/custom_trainer.md walks through it.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset

from unisono.training.run import main
from unisono.training.trainer import Trainer


class Digits(Dataset[tuple[Tensor, int]]):
    """1797 images of 8 x 8 pixels that come with scikit-learn; every fifth is for validation.

    Args:
        split: "train" or "val".
        noise: standard deviation of the noise added to each image, drawn anew each epoch.
    """

    def __init__(self, split: str, noise: float = 0.0) -> None:
        data = load_digits()
        chosen = [i for i in range(len(data.target)) if (i % 5 == 4) == (split == "val")]
        self.images = torch.tensor(data.images[chosen], dtype=torch.float32)[:, None] / 16
        self.labels, self.noise = data.target[chosen].tolist(), noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return image + self.noise * torch.randn_like(image), self.labels[index]


def convolutional_network(width: int, dropout: float) -> nn.Module:
    """Images ``(B, 1, 8, 8)`` to scores ``(B, 10)``."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Dropout(dropout), nn.Linear(2 * width * 16, 10),
    )  # fmt: skip


class DigitTrainer(Trainer):
    """Minimises the loss of the configuration, and watches the accuracy."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        scores = self.model(images)
        self.log("train/accuracy", scores.argmax(dim=1) == labels)
        return self.loss_fn(scores, labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        scores = self.raw_model(images)
        self.log("val/loss", nn.functional.cross_entropy(scores, labels, reduction="none"))  # one per image
        self.log("val/accuracy", scores.argmax(dim=1) == labels)


if __name__ == "__main__":
    main(config_path=Path(__file__).parent, config_name="digits")
