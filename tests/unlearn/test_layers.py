"""Which layers are found, how they fall into blocks, and which ones top-k means."""

import pytest
import torchvision
from torch import nn

from unlearn import build_model
from unlearn.methods.last_layers import trainable_modules
from unlearn.models.layers import deepest, depths, projectable_layers, weight_matrix_shape


def blocks(model):
    return [list(block.layers) for block in depths(model, "blocks")]


def deepest_layers(model, k, unit="layers"):
    return [name for depth in deepest(model, k, unit, "top_k") for name in depth.layers]


def test_nested_layers_are_found_in_definition_order() -> None:
    inner = nn.ModuleDict({"a": nn.Conv2d(1, 2, 3), "b": nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])})
    model = nn.Sequential(inner, nn.BatchNorm1d(2), nn.Linear(2, 3))
    assert list(projectable_layers(model)) == ["0.a", "0.b.0", "2"]


def test_a_layer_used_twice_is_found_once() -> None:
    layer = nn.Linear(2, 2)
    assert list(projectable_layers(nn.Sequential(layer, nn.ReLU(), layer))) == ["0"]


@pytest.mark.parametrize("own", [True, False], ids=["unlearn", "torchvision"])
def test_resnet18_has_six_blocks(own: bool) -> None:
    model = build_model("resnet18", num_classes=10, width=0.25) if own else torchvision.models.resnet18(num_classes=10)
    found = blocks(model)
    assert [names[0].split(".")[0] for names in found] == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert [name for names in found for name in names] == list(projectable_layers(model)), "each layer in one block"
    assert deepest_layers(model, 1, "blocks") == ["fc"]
    assert deepest_layers(model, 2, "blocks")[0] == "layer4.0.conv1"
    assert deepest_layers(model, 6, "blocks") == list(projectable_layers(model))


def test_chains_of_layers_are_blocks_of_one() -> None:
    vgg = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)), nn.Sequential(nn.Linear(2, 2))
    )
    assert blocks(vgg) == [["0.0"], ["0.2"], ["1.0"]]
    assert blocks(build_model("small_vgg", num_classes=10, width=0.125)) == [
        ["conv1"],
        ["conv2"],
        ["conv3"],
        ["linear1"],
        ["linear2"],
    ]
    assert blocks(nn.Linear(2, 2)) == [[""]]


def test_a_wrapper_has_the_blocks_of_what_it_wraps() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Identity()
            self.net = torchvision.models.resnet18(num_classes=3)

    found = blocks(Wrapper())
    assert len(found) == 6
    assert found[-1] == ["net.fc"]


@pytest.mark.parametrize(("k", "unit"), [(0, "layers"), (6, "layers"), (6, "blocks")])
def test_impossible_depths_are_told(k: int, unit: str) -> None:
    with pytest.raises(ValueError, match=rf"top_k: {k} is not allowed; the model has 5 {unit}, so give 1 to 5"):
        deepest_layers(build_model("small_vgg", num_classes=10, width=0.125), k, unit)


def test_weights_are_seen_as_matrices() -> None:
    assert weight_matrix_shape(nn.Conv2d(6, 4, (3, 2), groups=2)) == (2, 2, 18)
    assert weight_matrix_shape(nn.Linear(5, 7)) == (1, 7, 5)


def test_every_method_means_the_same_by_layers_and_blocks() -> None:
    """Wrapped or not, ResNet-18 has six blocks for PGU and for EU-k and CF-k."""
    inner = torchvision.models.resnet18(num_classes=10)
    wrapped = nn.Sequential(nn.Identity(), inner)
    for k in range(1, 7):
        projected = [name.removeprefix("1.") for name in deepest_layers(wrapped, k, "blocks")]
        assert projected == deepest_layers(inner, k, "blocks")
        trained = {id(module) for module in trainable_modules(wrapped, k, "blocks")}
        assert trained == {id(module) for module in trainable_modules(inner, k, "blocks")}
        layers = {name for name, module in projectable_layers(inner).items() if id(module) in trained}
        assert layers == set(projected)
    for k in (1, 4, 21):
        trained = {id(module) for module in trainable_modules(wrapped, k, "layers")}
        layers = [name for name, module in projectable_layers(wrapped).items() if id(module) in trained]
        assert layers == deepest_layers(wrapped, k)


def test_other_kinds_of_layers_count_too() -> None:
    """PGU cannot move a transposed convolution; as a step of depth it counts as for EU-k."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    assert deepest_layers(model, 2) == ["1", "3"]
    assert trainable_modules(model, 2, "layers")[0] is model[1]
