"""`release: true` against an independent statement of what the published release computes."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlearn import PGU, ArrayLoader, DepoisonPGU, second_moments
from unlearn.methods import IncompatibleMoments, UnlearnError
from unlearn.methods.base import in_order
from unlearn.methods.pgu.released import Released

from .. import reference_release as reference
from .net import relative

LAYERS = ["conv1", "conv2", "conv3", "linear1", "linear2"]
CLASSES = 6


class Net(nn.Module):
    """Convolutions with and without stride, both normalisations, and a first linear layer of more inputs than samples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(12, 16, 1, stride=2, bias=False)
        self.linear1 = nn.Linear(16 * 9, 20)
        self.norm2 = nn.BatchNorm1d(20)
        self.linear2 = nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.conv3(torch.relu(self.conv2(x))))
        return self.linear2(torch.relu(self.norm2(self.linear1(x.flatten(1)))))


Case = tuple[Net, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def case() -> Case:
    """A trained net with 120 images, and their labels."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % CLASSES
    patterns = random.normal(128, 40, (CLASSES, 12, 12, 3))
    images = np.clip(patterns[labels] + random.normal(0, 50, (120, 12, 12, 3)), 0, 255).astype(np.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for _ in range(15):
            for part, classes in loader(images, labels, batch_size=40):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(part), classes).backward()
                optimizer.step()
    return net.eval(), images, labels


def loader(images: np.ndarray, labels: np.ndarray, **options) -> ArrayLoader:
    settings = {"batch_size": 16, "mean": [0.5] * 3, "std": [0.25] * 3, **options}
    return ArrayLoader(images, labels.astype(np.int64), **settings)


def assert_same(found: nn.Module, slow: nn.Module, before: nn.Module, kept: list[int] | None = None) -> None:
    for name in LAYERS:
        after, expected, was = (m.get_submodule(name).weight.detach().double() for m in (found, slow, before))
        if kept is not None and name == "linear2":
            expected, was = expected[kept], was[kept]
        assert relative(after, expected) < 1e-4, name
        assert relative(after - was, expected - was) < 1e-2, f"{name}: the change itself"


@pytest.mark.parametrize("stop", [None, "gap"])
def test_data_removal(case: Case, stop: str | None) -> None:
    net, images, labels = case
    rows = in_order(np.arange(30), "class", labels, labels)
    assert list(labels[rows]) == sorted(labels[:30])
    forget = loader(images, labels, indices=rows)
    full = second_moments(net, loader(images, labels, augment="crop_flip"), stride_one=True)
    held = loader(np.roll(images, 1, axis=2), labels, indices=np.arange(60, 120))
    method = PGU.of(release=True, gamma=0.9, lr=0.05, final_lr=0.01, epochs=11, batch_size=16, early_stop=stop)
    result = method.unlearn(net, forget=forget, moments=full, validation=held)
    summed = reference.moments(net, loader(images, labels, augment="crop_flip"))
    retained = reference.retained(summed, reference.moments(net, forget))
    assert min(float(torch.linalg.eigvalsh(m)[0] / torch.linalg.eigvalsh(m)[-1]) for m in retained.values()) < -1e-4
    models = reference.unlearn(net, lambda _: forget, reference.spaces(retained, 0.9), 0.05, 0.01, 11)
    assert len(result.history) == 11 or stop
    if stop is None:
        return assert_same(result.model, models[10], net)
    gaps = [reference.accuracy(m, held) - reference.accuracy(m, forget) for m in models]
    found = reference.kept(gaps)
    assert result.stopped_at == found
    assert_same(result.model, models[found], net) if found else None


def test_class_removal(case: Case) -> None:
    net, images, labels = case
    gone = np.flatnonzero(labels < 2)
    forget = loader(images, labels, indices=gone, batch_size=100)
    full = second_moments(net, loader(images, labels, augment="crop_flip"), stride_one=True)
    method = PGU.of(release=True, gamma=0.8, epochs=11, batch_size=100, early_stop=None)
    result = method.unlearn(net, forget=forget, moments=full, forget_classes=(0, 1), num_classes=CLASSES)
    own = reference.moments(net, forget.replace(augment="crop_flip"))
    retained = reference.retained(reference.moments(net, loader(images, labels, augment="crop_flip")), own)
    space = reference.spaces(retained, 0.8, extra=1)
    slow = reference.unlearn(net, lambda _: forget, space, 0.05, 0.01, 11)[-1]
    assert_same(result.model, slow, net, [2, 3, 4, 5])


@pytest.mark.medium
@pytest.mark.parametrize("scaled", [400, 7])
def test_depoisoning(case: Case, scaled: int) -> None:
    net, images, labels = case
    wrong = labels.copy()
    wrong[:48] = labels[:48] ^ 1
    rows = in_order(np.arange(48), "class", labels, wrong)
    assert list(labels[rows][:4]) == [0, 1, 0, 1], "pair by pair, alternating"
    forget = loader(images, wrong, indices=rows, batch_size=128)
    clean = loader(images, wrong, indices=np.arange(48, 120), augment="crop_flip")
    settings = {"gamma": 0.9, "epochs": 11, "batch_size": 16, "early_stop": None, "seed": 3}
    method = DepoisonPGU.of(release=True, **settings)
    if scaled != 400:
        spelled = method.released.resolved(True)
        names = [name for name in vars(spelled) if name not in ("release", "scale_size")]
        method = DepoisonPGU.of(**{n: getattr(spelled, n) for n in names}, scale_size=scaled, **settings)
    result = method.unlearn(net, forget=forget, moments=second_moments(net, clean, stride_one=True))
    space = reference.spaces(reference.moments(net, clean.replace()), 0.9, below=True)
    assert max(m.shape[1] for name, m in space.items() if name.startswith("linear")) > 7

    def batches_of(epoch: int) -> ArrayLoader:
        drawn = forget.replace(augment="crop_flip", batch_size=16, seed=3)
        drawn.set_epoch(epoch)
        return drawn

    slow = reference.depoison(net, batches_of, space, 0.1, 0.05, 11, scaled)
    assert_same(result.model, slow, net)


def test_each_choice_is_a_choice(case: Case) -> None:
    """Every option alone changes what comes out, and none of them anything while it is at its default."""
    net, images, labels = case
    wrong = labels.copy()
    wrong[:48] = labels[:48] ^ 1
    forget = loader(images, wrong, indices=np.arange(48), batch_size=16)
    moments = {one: second_moments(net, loader(images, wrong), stride_one=one) for one in (False, True)}

    def run(**options) -> Tensor:
        given = {"gamma": 0.9, "epochs": 3, "batch_size": 16, "early_stop": None, **options}
        data = moments[bool(given.get("stride_one"))]
        method = DepoisonPGU.of(**given)
        return method.unlearn(net, forget=forget, moments=data).model.linear1.weight.detach()

    plain = run()
    assert torch.equal(plain, run())
    changes = [{"evaluate_first": True}, {"stride_one": True}, {"augment": "flip"}, {"clean_moments": True}]
    for changed in [*changes, {"scale_size": 3}, {"release": False, "augment": "crop_flip"}]:
        assert not torch.equal(plain, run(**changed)), changed
    same = [{"order": "class"}, {"gap_rule": "released"}, {"after_drop": "last"}]  # matters of data and of stops
    for changed in same:
        assert torch.equal(plain, run(**changed)), changed


def test_ranks_and_spectra() -> None:
    vectors = torch.eye(4)[None]
    from unlearn import CoreBasis

    basis = CoreBasis({"a": vectors}, {"a": torch.tensor([[16.0, 4.0, 1.0, -9.0]], dtype=torch.float64)}, "")
    assert basis.ranks("a", 6 / 7) == [2]
    assert basis.ranks("a", 6 / 7, below=True) == [1]
    turned = basis.absolute()
    assert turned.values["a"].tolist() == [[16.0, 9.0, 4.0, 1.0]]
    assert torch.equal(turned.vectors["a"][0], torch.eye(4)[:, [0, 3, 1, 2]])
    assert turned.ranks("a", 0.7) == [2]


def test_after_a_drop_the_release_keeps_the_fallen_model(case: Case) -> None:
    net, images, labels = case
    forget = loader(images, labels, indices=np.arange(30))
    moments = second_moments(net, loader(images, labels))
    watched = {"retain": loader(images, labels, indices=np.arange(30, 120))}
    settings = {"gamma": 0.3, "epochs": 40, "batch_size": 16, "early_stop": "retain_drop"}
    best, last = (
        PGU.of(after_drop=rule, **settings).unlearn(net, forget=forget, moments=moments, monitor=watched)
        for rule in ("previous", "last")
    )
    assert last.stopped_at == best.stopped_at + 1
    assert last.history[-1]["retain_accuracy"] < last.history[0]["retain_accuracy"] - 0.05
    watched["retain"].set_epoch(0)
    assert reference.accuracy(copy.deepcopy(last.model).double(), watched["retain"]) < 1.0


def test_what_does_not_fit_is_told(case: Case) -> None:
    net, images, labels = case
    plain = second_moments(net, loader(images, labels))
    with pytest.raises(IncompatibleMoments, match="stride_one=False, but True is wanted"):
        PGU.of(release=True, early_stop=None).unlearn(net, forget=loader(images, labels), moments=plain)
    batches = list(loader(images, labels, indices=np.arange(30)))
    with pytest.raises(UnlearnError, match="augment: 'flip' needs the forget set as an ArrayLoader"):
        DepoisonPGU.of(augment="flip", early_stop=None).unlearn(net, forget=batches, moments=plain)
    with pytest.raises(ValueError, match="rank_rule: 'over' is not allowed; allowed are at_most, below"):
        Released(rank_rule="over")
