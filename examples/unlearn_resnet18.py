"""Forgetting part of the training data of a ResNet-18 of one's own, through the Python API.

    python examples/unlearn_resnet18.py [--gamma 0.75] [--top-k 3] [--save moments.safetensors]

The model is torchvision's, trained here for a few seconds on handwritten digits (scikit-learn's, 8×8 pixels) so that
the example needs nothing else; a model that was trained elsewhere goes the same way from step 2 on. What it shows:

1. a model, trained as its owner trains it;
2. second moments of its training data, once, when training ends; from then on the retain data may be gone;
3. unlearning from the forget set and those moments;
4. what changed on the forget set, and what did not on the rest, beside a model trained without the forget set.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from unlearn import PGU, SecondMoments, UnlearnResult, accuracy, load_dataset, second_moments

Batches = list[tuple[Tensor, Tensor]]


def batches(images: Tensor, labels: Tensor, size: int = 30) -> Batches:
    """Anything that yields (images, labels) is a loader; a list of batches is the simplest."""
    return list(zip(images.split(size), labels.split(size), strict=True))


def own_model(seed: int) -> nn.Module:
    """torchvision's ResNet-18 with ten outputs."""
    from torchvision.models import resnet18

    torch.manual_seed(seed)
    return resnet18(num_classes=10)


def fit(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], epochs: int) -> nn.Module:
    """An ordinary training loop."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.eval()


def example(gamma: float, top_k: int, save: Path | None) -> dict[str, float]:
    """Runs the four steps and returns the accuracies that it prints."""
    digits = load_dataset("digits", limit={"train": 300, "test": 350})
    images, test = (
        nn.functional.interpolate(torch.from_numpy(part.images).permute(0, 3, 1, 2) / 255, scale_factor=2).repeat(1, 3, 1, 1)
        for part in (digits.train, digits.test)
    )  # fmt: skip
    labels, test_labels = torch.from_numpy(digits.train.labels), torch.from_numpy(digits.test.labels)
    gone = torch.arange(len(labels)) < 40  # whose images are to be forgotten

    # 1. The owner's model, trained on everything.
    model = fit(own_model(seed=0), batches(images, labels), epochs=8)

    # 2. When training ends: its second moments, which can be stored beside the checkpoint.
    moments = second_moments(model, batches(images, labels))
    if save is not None:
        moments.save(save)
        moments = SecondMoments.load(save, model=model)  # refused where it is another model's

    # 3. Later: the forget set, the model and its moments are all that is needed.
    method = PGU.of(gamma=gamma, top_k=top_k, unit="blocks", lr=0.05, final_lr=0.01, epochs=60, early_stop="gap")
    result: UnlearnResult = method.unlearn(
        model,
        forget=batches(images[gone], labels[gone]),
        moments=moments,
        validation=batches(test[:150], test_labels[:150]),
    )

    # 4. Beside the gold standard: a model that never saw the forget set.
    retrained = fit(own_model(seed=1), batches(images[~gone], labels[~gone]), epochs=8)
    sets = {
        "forget set": batches(images[gone], labels[gone]),
        "retain set": batches(images[~gone], labels[~gone]),
        "test set": batches(test[150:], test_labels[150:]),
    }
    found: dict[str, float] = {}
    print(f"{'accuracy on':<20}{'original':>10}{'unlearned':>11}{'retrained':>11}")
    for name, loader in sets.items():
        row = [accuracy(net, loader) for net in (model, result.model, retrained)]
        print(f"{name:<20}{row[0]:>10.3f}{row[1]:>11.3f}{row[2]:>11.3f}")
        found |= {
            f"{name}/{kind}": value for kind, value in zip(("original", "unlearned", "retrained"), row, strict=True)
        }
    print(f"stopped at epoch {result.stopped_at}; {'; '.join(result.notes) or 'no notes'}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gamma", type=float, default=0.75)
    parser.add_argument("--top-k", type=int, default=3, help="blocks from the end that may change, of six")
    parser.add_argument("--save", type=Path, help="where to store the moments")
    args = parser.parse_args()
    example(args.gamma, args.top_k, args.save)


if __name__ == "__main__":
    main()
