"""What only a GPU shows (marked `gpu`), and what the same code shows without one: nothing in a step waits for it."""

import warnings
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toys import SGD, data, models, settings
from tutelage.data.memory import moved_to
from tutelage.engine import loop
from tutelage.engine.cuda_graph import CapturedStep
from tutelage.engine.loop import may_capture, start, train_step
from tutelage.engine.precision import Execution
from tutelage.engine.teacher_cache import use
from tutelage.engine.teacher_cache.codecs import Top, Whole
from tutelage.engine.teacher_cache.store import TeacherCache
from tutelage.graph import objective
from tutelage.graph.sample_weights import entropy
from tutelage.methods.dual_student import dual_student
from tutelage.system.distributed import World

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
        use.open_draw(run, run.cache)
    run.losses = lambda *args: objective.losses(*args)  # the closed form reads one on the CPU alone
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
    assert moved_to(tensor, torch.device("cpu")) is tensor


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
        use.open_draw(run, run.cache)
    batches = run.data.train.batches(torch.arange(36).split(12), draw=0)
    train_step(run, [next(batches)])  # first calls load kernels and make buffers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "a prototype feature"
        torch.cuda.set_sync_debug_mode("error")
        try:
            with pytest.raises(RuntimeError, match="synchronizing"):
                bool(run.healthy)  # whatever waits is found
            train_step(run, [next(batches)])
            train_step(run, [next(batches)])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    run.guard.read()
    assert bool(run.healthy)


def weights_after(recorded: bool, cache: TeacherCache | None, steps: int = 18) -> list[Tensor]:
    """Of both students after six rounds of three batches, with the losses' means as the last."""
    gpu = torch.device("cuda", 0)
    run = start(dual_student("t", ["a", "b"]), models(norm=False), data(device=gpu), settings(optimizer=SGD),
                World(gpu), dict.fromkeys("tab", Execution(channels_last=True)))
    assert may_capture(run)
    run.recording = CapturedStep(run.optimizers.values(), run.world.device)
    if not recorded:
        run.recording.refuse("the test says so")
    run.cache = cache
    loop.set_modes(run)
    if cache is not None:
        use.open_draw(run, cache)
    batches = list(run.data.train.batches(torch.arange(36).split(12) * 6, draw=0))
    for batch in batches[:steps]:
        train_step(run, [batch])
    run.guard.read()
    assert (run.recording.replay is not None) == recorded
    means = torch.tensor(list(loop.mean_losses(run).values()))
    return [weight.detach().cpu() for node in "ab" for weight in run.models[node].parameters()] + [means]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("cached", [False, True])
def test_a_recorded_step_gives_the_bits_of_the_step_as_it_is_written(cached, tmp_path):
    gpu, found = torch.device("cuda", 0), []
    for recorded in (False, True):
        cache = (TeacherCache(tmp_path / str(recorded), data(device=gpu).train.ids.to(gpu), {"t": Whole(True, False)},
                              2**20) if cached else None)
        found.append(weights_after(recorded, cache))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
@needs_gpu
def test_a_network_that_draws_is_not_recorded_on_a_gpu(caplog):
    gpu = torch.device("cuda", 0)
    run = start(dual_student("t", ["a", "b"]), models(), data(device=gpu), settings(), World(gpu))
    run.recording = CapturedStep(run.optimizers.values(), run.world.device)
    loop.set_modes(run)
    for batch in run.data.train.batches(torch.arange(36).split(12) * 2, draw=0):
        train_step(run, [batch])
    assert run.recording.off == "steps are not recorded: something draws random numbers"
    assert run.recording.replay is None


@pytest.mark.gpu
@needs_gpu
def test_batches_made_together_on_a_gpu_are_those_made_one_by_one():
    source = data(device=torch.device("cuda", 0), mixup=0.4).train
    plan = torch.arange(36).split(7) * 4
    alone = [next(iter(source.batches([rows], draw=1))) for rows in plan]
    for batch, own in zip(source.batches(plan, draw=1), alone, strict=True):
        assert torch.equal(batch.inputs, own.inputs)
        assert torch.equal(batch.labels, own.labels)
        assert torch.equal(batch.ids, own.ids)
