"""A model of anyone's is tried on two images first: it works, or one line says why it cannot."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearn import METHODS, PGU, CFk, EUk, Training, UnlearnError, accuracy, second_moments, train
from unlearn.models.probe import Probe, probe, probe_with

X = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 4
LOADER = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 24, 8)]


class Net(nn.Module):
    """A body, a head, and whatever a case changes."""

    def __init__(self, classes: int = 4, wrap: Any = None, head_first: bool = False, spare: bool = False):
        super().__init__()
        if head_first:
            self.head = nn.Linear(16, classes)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU())
        if not head_first:
            self.head = nn.Linear(16, classes)
        if spare:
            self.spare = nn.Linear(16, 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        logits = self.head(self.body(x))
        return logits if self.wrap is None else self.wrap(logits)


torch.manual_seed(0)
SOUND = Net().eval()


def with_nan(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(iter(model.parameters()))[0] = float("nan")
    return model


REFUSED = {
    "tuple": (
        Net(wrap=lambda z: (z, z)),
        "returns a tuple; logits (n, 4) are needed: give a wrapper that returns the part",
    ),
    "dict without logits": (
        Net(wrap=lambda z: {"scores": z}),
        "returns a dict; logits (n, 4) are needed: give a wrapper that returns them, alone or as 'logits'",
    ),
    "object without logits": (Net(wrap=lambda z: SimpleNamespace(scores=z)), "returns a SimpleNamespace"),
    "number": (Net(wrap=lambda z: 3.0), "returns a float"),
    "1000 outputs": (Net(classes=1000), "2 images come out as (2, 1000); logits (2, 4) are needed"),
    "maps": (Net(wrap=lambda z: z[..., None]), "come out as (2, 4, 1)"),
    "classes said": (Net(wrap=lambda z: z.argmax(1, keepdim=True).expand(2, 4)), "returns torch.int64"),
    "nan": (with_nan(Net()), "body.0.weight holds NaN or infinity"),
    "overflow": (Net(wrap=lambda z: z / 0.0), "its logits of two images hold NaN or infinity"),
    "channels": (
        nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()),
        "cannot run on images of 1x8x8 float32 (RuntimeError",
    ),
    "bug": (Net(wrap=lambda z: z.nothing), "AttributeError: 'Tensor' object has no attribute 'nothing'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_gives_no_logits_is_one_line(case: str) -> None:
    model, words = REFUSED[case]
    with pytest.raises(UnlearnError) as caught:
        probe(model, X[:2], 4)
    assert words in str(caught.value)
    assert str(caught.value).startswith("model: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "model",
    [
        Net(wrap=lambda z: {"logits": z, "more": z.sum()}),
        Net(wrap=lambda z: SimpleNamespace(logits=z)),
        Net(wrap=lambda z: (z,)),
        Net().to(torch.bfloat16),
    ],
    ids=["dict", "object", "tuple of one", "bfloat16"],
)
def test_wrapped_logits_and_half_precision_are_looked_through(model: nn.Module) -> None:
    assert probe(model, X[:2], 4).executed == ("body.0", "body.3", "head")


def test_the_model_is_left_as_it_was() -> None:
    model = Net().train()
    model.body[0].weight.requires_grad_(False)
    model.body.eval()
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    probe(model, X[:2], 4)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert [m.training for m in (model, model.body, model.head)] == [True, False, True]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def look(model: nn.Module) -> Probe:
    return probe(model.eval(), X[:2], 4)


def test_layers_are_found_in_the_order_in_which_they_run() -> None:
    found = look(Net(head_first=True, spare=True))
    assert found.defined == ("head", "body.0", "body.3", "spare")
    assert found.executed == ("body.0", "body.3", "head")
    assert found.unused == ("spare",)
    frozen = Net()
    frozen.requires_grad_(False)
    assert look(frozen).unused == (), "a frozen layer is not an unused one"


def test_attention_counts_its_last_layer_and_what_projection_leaves_alone_is_named() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(1, 2, 2)
            self.first = nn.Conv1d(9, 8, 1)
            self.attend = nn.MultiheadAttention(18, 2, batch_first=True)
            self.head = nn.Linear(18, 4)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.first(self.up(x).flatten(2).transpose(1, 2).unflatten(1, (9, 9)).flatten(2))
            return self.head(self.attend(tokens, tokens, tokens)[0].mean(1))

    found = look(Attending())
    assert found.executed == ("up", "first", "attend.out_proj", "head")
    assert found.left_alone == ("up", "first", "attend")
    assert found.unused == ()


@pytest.mark.parametrize("method", [EUk(k=1, epochs=1, lr=0.01), PGU(gamma=0.9, top_k=1, epochs=1, early_stop=None)])
@pytest.mark.parametrize(
    ("options", "words"), [({"head_first": True}, "head runs after body.3"), ({"spare": True}, "spare has no part")]
)
def test_the_deepest_layers_are_never_the_wrong_ones(method: Any, options: dict[str, bool], words: str) -> None:
    torch.manual_seed(0)
    model = Net(**options).eval()
    given = {"forget": LOADER, "retain": LOADER, "moments": second_moments(model, LOADER)}
    with pytest.raises(UnlearnError, match=words):
        method.unlearn(model, **given)
    sound = {**given, "moments": second_moments(SOUND, LOADER)}
    assert isinstance(method.unlearn(SOUND, **sound).model, Net)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spare": True}, "spare is the last linear layer defined, but head makes the logits"),
        ({"head_first": True}, "body.3 is the last linear layer defined, but head makes the logits"),
        ({"classes": 6}, "head has 6 outputs for 4 classes"),
        ({}, ""),
    ],
)
def test_classes_are_taken_from_the_layer_that_makes_the_logits(options: dict[str, Any], words: str) -> None:
    model = Net(**options).eval()
    found = probe(model, X[:2])
    if not words:
        found.require_head(model, 4)
        return
    with pytest.raises(UnlearnError, match=words):
        found.require_head(model, 4)


def test_a_loader_that_can_be_read_only_once_is_not_touched() -> None:
    once = iter(LOADER)
    assert probe_with(SOUND, once) is None
    assert len(list(once)) == 3
    with pytest.raises(UnlearnError, match="holds no images"):
        probe_with(SOUND, [])


def test_labels_in_a_column_are_labels_and_other_shapes_are_refused() -> None:
    column = [(x, y[:, None]) for x, y in LOADER]
    assert accuracy(SOUND, column) == accuracy(SOUND, LOADER)
    with pytest.raises(ValueError, match=r"labels: shape \(8, 4\) is not allowed"):
        accuracy(SOUND, [(x, nn.functional.one_hot(y, 4)) for x, y in LOADER])


CLASSWISE = ("finetune", "neggrad_plus", "retrain", "eu_k", "pgu")


@pytest.mark.parametrize("name", CLASSWISE)
def test_no_method_takes_classes_from_a_layer_that_does_not_make_the_logits(name: str) -> None:
    torch.manual_seed(0)
    model = Net(spare=True).eval()
    more = {"early_stop": None} if name == "pgu" else {"k": 1} if name == "eu_k" else {}
    given = {"forget": LOADER[:1], "retain": LOADER[1:], "forget_classes": (0,)}
    given |= {"moments": second_moments(model, LOADER)} if name == "pgu" else {}
    with pytest.raises(UnlearnError, match=r"head makes the logits|spare has no part in the logits"):
        METHODS[name](epochs=1, **more).unlearn(model, **given)


@pytest.mark.parametrize("name", ["boundary_expand", "fisher"])
@pytest.mark.parametrize("options", [{"spare": True}, {"head_first": True}])
def test_methods_that_change_the_head_find_it(name: str, options: dict[str, bool]) -> None:
    model = Net(**options).eval()
    with pytest.raises(UnlearnError, match="head makes the logits"):
        METHODS[name]().check_model(model, probe(model, X[:2]))
    METHODS[name]().check_model(SOUND, probe(SOUND, X[:2]))


@pytest.mark.parametrize("options", [{"spare": True}, {"head_first": True}])
def test_random_labels_are_drawn_from_all_classes(options: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may end with a layer of other outputs: there are as many classes as logits."""
    from unlearn.methods.kit import task

    seen = []
    made = task.Task.__init__
    monkeypatch.setattr(
        task.Task, "__init__", lambda self, **given: seen.append(given["num_classes"]) or made(self, **given)
    )
    torch.manual_seed(0)
    METHODS["random_label"](epochs=1).unlearn(Net(**options).eval(), forget=LOADER[:1], retain=LOADER[1:])
    assert seen == [4]


class TwoHeads(Net):
    """A second head runs and is no part of the logits; the body may run without gradients."""

    def __init__(self, without_gradients: bool = False):
        super().__init__()
        self.projection = nn.Linear(16, 5)
        self.without_gradients = without_gradients

    def forward(self, x: Tensor) -> Any:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.without_gradients):
            found = self.body(x)
        return {"logits": self.head(found), "projection": self.projection(found)}


@pytest.mark.parametrize("without_gradients", [False, True])
def test_pgu_leaves_what_no_gradient_reaches(without_gradients: bool) -> None:
    torch.manual_seed(0)
    model = TwoHeads(without_gradients).eval()
    method = PGU(gamma=0.9, epochs=1, lr=0.1, early_stop=None)
    result = method.unlearn(model, forget=LOADER[:1], moments=second_moments(model, LOADER))
    assert torch.equal(result.model.projection.weight, model.projection.weight)
    assert not torch.equal(result.model.head.weight, model.head.weight)
    told = [note for note in result.notes if "no gradient reaches" in note]
    assert len(told) == 1
    assert "projection" in told[0]
    assert ("body.0" in told[0]) == without_gradients


@pytest.mark.parametrize("name", ["pgu", "eu_k", "cf_k", "seif"])
def test_a_method_that_moves_frozen_layers_says_so(name: str) -> None:
    torch.manual_seed(0)
    model = Net().eval()

    def told() -> list[str]:
        options = {"pgu": {"gamma": 0.9, "early_stop": None, "lr": 0.1}, "eu_k": {"k": 3}, "cf_k": {"k": 3}}
        given = {"moments": second_moments(model, LOADER)} if name == "pgu" else {"retain": LOADER[1:]}
        result = METHODS[name](epochs=1, **options.get(name, {})).unlearn(model, forget=LOADER[:1], **given)
        return [note for note in result.notes if note.startswith("frozen in the model")]

    assert told() == []
    model.body.requires_grad_(False)
    (note,) = told()
    assert "body.0.weight" in note
    assert "head" not in note


def test_loaders_that_can_be_read_only_once() -> None:
    moments = second_moments(SOUND, LOADER)
    method = PGU(gamma=0.9, epochs=2, lr=0.1, early_stop=None)
    for forgetting, given in ((method, {"moments": moments}), (METHODS["grad_ascent"](lr=0.1), {})):
        listed, once = (forgetting.unlearn(SOUND, forget=f, **given) for f in (LOADER[:2], iter(LOADER[:2])))
        assert torch.equal(listed.model.head.weight, once.model.head.weight)
    for method in (EUk(k=1, epochs=2), CFk(k=1, epochs=2), METHODS["retrain"](epochs=2)):
        with pytest.raises(
            UnlearnError, match="retain: it can be read only once, and training reads it in every epoch"
        ):
            method.unlearn(SOUND, forget=LOADER[:1], retain=iter(LOADER))
    with pytest.raises(UnlearnError, match="loader: it can be read only once"):
        second_moments(SOUND, iter(LOADER), augment_passes=2)


def test_whole_numbers_are_classes_whatever_their_type() -> None:
    def trained(labels: Any) -> Tensor:
        model = copy.deepcopy(SOUND)
        train(model, [(x, labels(y)) for x, y in LOADER], Training(epochs=1, lr=0.1, augment=None), seed=0)
        return model.head.weight

    assert torch.equal(trained(lambda y: y), trained(lambda y: y.float()))
    assert torch.equal(trained(lambda y: y), trained(lambda y: y[:, None].double()))
    with pytest.raises(ValueError, match="labels: they are fractions"):
        trained(lambda y: y + 0.5)
