"""What only a GPU shows (marked `gpu`), and what the same code shows without one: nothing in a step waits for it."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from toys import SGD, data, models, network, settings
from tutelage import caching, loop
from tutelage.data.memory import moved
from tutelage.kept_rows import Top, Whole
from tutelage.loop import start, train_step
from tutelage.methods.dual_student import dual_student
from tutelage.running import Choice, compute, on_device, runner
from tutelage.sample_weights import entropy
from tutelage.teacher_cache import TeacherCache
from tutelage.world import World

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")
"""Operations whose result the host must have before it goes on: `.item()`, `bool()`, a mask as index."""
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


class Waits(TorchDispatchMode):
    """Counts the operations that would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = [index for index in args[1] if index is not None and index.dtype == torch.bool] if (
            name in ("index", "index_put", "index_put_")) else []
        if name in WAITS or masks:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def test_the_counter_sees_what_waits():
    ones = torch.ones(3)
    with Waits() as waits:
        assert float(ones[0]) == 1
        assert bool(ones.sum() > 1)
        assert len(ones[ones > 0]) == 3
    assert waits.found == {"_local_scalar_dense": 2, "index": 1}


@pytest.mark.parametrize("options", [{}, {"mixup": 0.4, "cutmix": 1.0}], ids=["crop", "mixtures"])
def test_making_a_batch_reads_no_number_back(options):
    source = data(**options).train
    with Waits() as waits:
        list(source.batches(torch.arange(36).split(12), draw=0))
    assert not waits.found


@pytest.mark.parametrize("cached", [None, Whole(True, False), Top(2, 4, 4.0, (entropy,))],
                         ids=["online", "rows", "top"])
def test_forward_and_backward_read_no_number_back(cached, tmp_path):
    options = {} if cached is None else {"cache": True}
    run = start(dual_student("t", ["a", "b"]), models(), data(), settings(precision="bf16", **options),
                World(torch.device("cpu")))
    loop.set_modes(run)
    if cached is not None:
        run.cache = TeacherCache(tmp_path, run.data.train.ids, {"t": cached}, 2**20)
        caching.open_draw(run, run.cache)
    run.losses = lambda *args: loop.objective.losses(*args)  # the closed form reads one on the CPU alone
    batches = list(run.data.train.batches(torch.arange(24).split(12), draw=0))
    for batch in batches:
        with Waits() as waits:
            loop._learn(run, batch, run.graph.weights(0.0))
        assert not waits.found
    with Waits() as waits:
        run.guard.read()
    assert waits.found == {"_local_scalar_dense": 1}, "one question for both steps"


def test_a_tensor_that_is_moved_is_the_same_and_stays_where_it_belongs():
    tensor = torch.arange(6.0).view(2, 3)
    assert moved(tensor, torch.device("cpu")) is tensor


class OneMemory(nn.Module):
    """Gives all its outputs in the same memory, as a CUDA graph does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.memory = net, torch.zeros(2, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.memory.copy_(self.net(images).detach())


def test_outputs_of_cuda_graphs_are_copies(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda net, options=None: asked.append(options) or OneMemory(net))
    choice = Choice(compiled=True, graphs=True)
    net = network(1).eval()
    ready = runner(net, choice, frozen=False, tapped=False)
    one, other = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    first = compute(ready, choice, one, [""])[""]
    compute(ready, choice, other, [""])
    assert torch.equal(first, net(one))
    runner(net, choice, frozen=True, tapped=False)
    assert asked == [{"triton.cudagraphs": True}, {"freezing": True, "triton.cudagraphs": True}]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("cache", [False, True])
def test_a_step_on_a_gpu_waits_for_nothing(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    gpu = torch.device("cuda", 0)
    run = start(dual_student("t", ["a", "b"]), models(), data(device=gpu), settings(cache=cache), World(gpu))
    loop.set_modes(run)
    if cache:
        run.cache = TeacherCache(tmp_path, run.data.train.ids.to(gpu), {"t": Whole(True, False)}, 2**20)
        caching.open_draw(run, run.cache)
    batches = run.data.train.batches(torch.arange(36).split(12), draw=0)
    train_step(run, [next(batches)])  # first calls load kernels and make buffers
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(run, [next(batches)])
        train_step(run, [next(batches)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run.guard.read()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.slow
def test_networks_in_cuda_graphs_learn_what_they_learn_without():
    gpu = torch.device("cuda", 0)
    found: list[list[Tensor]] = []
    for choice in (Choice(), Choice(compiled=True, graphs=True)):
        run = start(dual_student("t", ["a", "b"]), models(norm=False), data(device=gpu), settings(optimizer=SGD),
                    World(gpu), dict.fromkeys("tab", choice))
        loop.set_modes(run)
        for batch in run.data.train.batches(torch.arange(36).split(12) * 4, draw=0):
            train_step(run, [on_device(batch, gpu)])
        run.guard.read()
        found.append([weight.detach().clone() for node in "ab" for weight in run.models[node].parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
