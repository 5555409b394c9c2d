"""Loaders and models as people have them: ids in batches, mappings, half precision, wrapped logits.

Each must give what the plain form gives: the same arithmetic runs on the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearn import Training, UnlearnError, accuracy, predict, second_moments, train
from unlearn.core.batches import images_and_labels, to_device
from unlearn.methods import METHODS
from unlearn.moments.fisher import fisher_diagonal

BATCHES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "pair": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "with ids": lambda x, y: (x, y, torch.arange(len(y))),
    "mapping": lambda x, y: {"image": x, "label": y, "id": torch.arange(len(y))},
    "Hugging Face": lambda x, y: {"pixel_values": x, "labels": y},
    "int32 labels": lambda x, y: (x, y.int()),
    "labels in a column": lambda x, y: (x, y[:, None]),
}
OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensor": lambda logits, features: logits,
    "mapping": lambda logits, features: {"features": features, "logits": logits},
    "object": lambda logits, features: SimpleNamespace(logits=logits, hidden=features),
    "tuple of one": lambda logits, features: (logits,),
}


class Net(nn.Module):
    """A small network with batch normalisation, whose forward wraps its logits."""

    def __init__(self, wrap: str = "tensor", outputs: int = 4) -> None:
        super().__init__()
        self.wrap = wrap
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.body, self.head = nn.Linear(16, 8), nn.Linear(8, outputs)

    def forward(self, images: Tensor) -> Any:
        pooled = nn.functional.adaptive_avg_pool2d(torch.relu(self.norm(self.conv(images))), 2).flatten(1)
        features = torch.relu(self.body(pooled))
        return OUTPUTS[self.wrap](self.head(features), features)


def data(kind: str = "pair", rows: slice = slice(None), half: bool = False) -> list[Any]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(40, 1, 8, 8, generator=draw)
    images = images.bfloat16() if half else images.bfloat16().float()
    labels = (images.float().mean((1, 2, 3)) > 0).long() * 2 + (images[:, 0, :4].float().mean((1, 2)) > 0).long()
    parts = zip(images[rows].split(16), labels[rows].split(16), strict=True)
    return [BATCHES[kind](x, y) for x, y in parts]


def net(wrap: str = "tensor", outputs: int = 4) -> Net:
    torch.manual_seed(1)
    return Net(wrap, outputs)


def trained(kind: str = "pair", wrap: str = "tensor", outputs: int = 4, half: bool = False) -> Net:
    model = net(wrap, outputs)
    train(model, data(kind, half=half), Training(lr=0.05, epochs=2, batch_size=16, augment=None), seed=0)
    return model.eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def unlearned(name: str, model: nn.Module, kind: str = "pair", half: bool = False) -> nn.Module:
    """Runs a method with its example settings on ten samples, or on a class."""
    method = METHODS[name].of(**{**METHODS[name].examples, **SUITED.get(name, {})})
    needs = method.needs()
    classes = method.scenarios == frozenset({"classes"})
    given: dict[str, Any] = {"forget": data(kind, slice(10), half), "num_classes": 4}
    if classes:
        pairs = [images_and_labels(batch) for batch in data()]
        images, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        given |= {"forget": [BATCHES[kind](images[labels == 0], labels[labels == 0])], "forget_classes": (0,)}
    if needs.retain:
        given["retain"] = data(kind, slice(10, None), half)
    if needs.access == "moments":
        given["moments"] = second_moments(model, data(kind, half=half))
    if needs.access == "fisher":
        given["fisher"] = fisher_diagonal(model, data(kind, half=half), statistic=needs.statistic)
    if needs.validation:
        given["validation"] = data(kind, slice(30, None), half)
    return method.unlearn(model, **given).model


SUITED: dict[str, dict[str, Any]] = {"lfssd": {"alpha": 0.5}}  # else no weight of so small a problem is chosen
NEED_PIXELS = ("boundary_shrink", "amun")  # these take an `ArrayLoader` only, and say so
SELECTABLE = [name for name in METHODS if METHODS[name].selectable and name not in NEED_PIXELS]


@pytest.mark.medium
@pytest.mark.parametrize("kind", [kind for kind in BATCHES if kind != "pair"])
def test_other_batches_give_the_same(kind: str) -> None:
    model = trained()
    assert same(trained(kind), model)
    assert accuracy(model, data(kind)) == accuracy(model, data())
    assert second_moments(model, data(kind)).data_digest == second_moments(model, data()).data_digest
    assert same(unlearned("pgu", model, kind), unlearned("pgu", model))
    assert same(unlearned("eu_k", model, kind), unlearned("eu_k", model))


def test_a_loader_of_half_precision_gives_the_same() -> None:
    model = trained()
    assert same(trained(half=True), model)
    assert torch.equal(predict(model, data(half=True))[0], predict(model, data())[0])
    assert same(unlearned("pgu", model, half=True), unlearned("pgu", model))


@pytest.mark.medium
@pytest.mark.parametrize("wrap", [wrap for wrap in OUTPUTS if wrap != "tensor"])
def test_wrapped_logits_give_the_same(wrap: str) -> None:
    plain, model = trained(), trained(wrap=wrap)
    assert same(plain, model)
    assert torch.equal(predict(plain, data())[0], predict(model, data())[0])
    assert same(unlearned("pgu", plain), unlearned("pgu", model))


@pytest.mark.medium
@pytest.mark.parametrize("name", SELECTABLE)
def test_every_method_takes_wrapped_logits_and_ids(name: str) -> None:
    plain, model = trained(), trained(wrap="mapping")
    result = unlearned(name, model, "with ids")
    assert result.wrap == "mapping"
    for one, other in zip(unlearned(name, plain).state_dict().values(), result.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pgu", "eu_k", "finetune", "ssd"])
def test_a_model_of_half_precision_stays_one(name: str) -> None:
    model = trained().bfloat16()
    assert accuracy(model, data()) == pytest.approx(accuracy(trained(), data()), abs=0.1)
    result = unlearned(name, model)
    assert {p.dtype for p in result.parameters()} == {torch.bfloat16}
    assert not same(result, model)


@pytest.mark.parametrize("name", ["pgu", "eu_k", "scrub"])
def test_more_outputs_than_classes(name: str) -> None:
    result = unlearned(name, trained(outputs=1000))
    assert result.head.out_features == 1000


def test_several_tensors_are_not_guessed_from() -> None:
    model = net()
    model.forward = lambda images: (images.flatten(1)[:, :4], images)  # type: ignore[method-assign]
    for run in (
        lambda: accuracy(model, data()),
        lambda: train(model, data(), Training(epochs=1, augment=None), seed=0),
        lambda: unlearned("eu_k", model),
    ):
        with pytest.raises(UnlearnError, match=r"forward returns a tuple; logits \(n, classes\) are needed"):
            run()


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.zeros(2, 1, 8, 8), "a batch is a Tensor"),
        ((torch.zeros(2, 1, 8, 8),), "a batch is a tuple"),
        ({"image": torch.zeros(2), "id": torch.zeros(2)}, "image, id holds 0 of labels"),
        ({"image": torch.zeros(2), "x": torch.zeros(2), "y": torch.zeros(2)}, "holds 2 of images"),
        ((torch.zeros(2, 1, 8, 8), [0, 1]), "labels of a batch are a list"),
        ((torch.zeros(2, 1, 8, 8), torch.zeros(2, 3)), r"labels: shape \(2, 3\)"),
    ],
)
def test_other_batches_are_refused_in_one_line(batch: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_device(batch, torch.device("cpu"))
