"""What stands for captured graphs on a CPU, and small models to train with it."""

import torch

from unlearn import ArrayLoader, build_model, train


def recorder(work, device, warmed_up):
    """Stands for `record_cuda_graph`."""
    state = torch.get_rng_state()
    for _ in range(3):
        result = work()
    torch.set_rng_state(state)  # on a GPU a slot has a generator of its own
    warmed_up()
    cells = dict(zip(work.__code__.co_freevars, (cell.cell_contents for cell in work.__closure__), strict=True))
    twin, optimizer = cells["twin"], cells["optimizer"]
    fixed = tuple(torch.zeros_like(each) for each in result)

    def addresses():
        states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
        return [tensor.data_ptr() for tensor in (*twin.parameters(), *twin.buffers(), *states)]

    known = addresses()

    def replay():
        assert addresses() == known, "a graph would go on with the old memory"
        for kept, found in zip(fixed, work(), strict=True):
            kept.copy_(found)

    return replay, fixed


def loader_of(digits, seed=1, rows=None, device="cpu"):
    data = digits.train
    options = {"mean": digits.mean, "std": digits.std, "batch_size": 64, "shuffle": True, "augment": "crop_flip"}
    return ArrayLoader(data.images, data.labels, rows, seed=seed, device=device, **options)


def new_model(seed, name="small_vgg", width=0.125):
    return build_model(name, num_classes=10, in_channels=1, image_size=8, width=width, seed=seed)


def state(model):
    return torch.cat([tensor.detach().cpu().flatten().double() for tensor in model.state_dict().values()])


def trained(digits, seed, training, graphs=None, name="small_vgg", device="cpu", width=0.125):
    model = new_model(seed, name, width)
    rows = train(model, loader_of(digits, seed, device=device), training, seed=seed, device=device, graphs=graphs)
    return state(model), [(row["loss"], row["accuracy"]) for row in rows]
