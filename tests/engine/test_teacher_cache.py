"""A cached teacher: the same images, the same bits, whatever the disk has of it."""

import errno
import fcntl
import math
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toys import SGD, RowByRow, Switch, models, settings
from tutelage import Computed, Edge, Ensemble, Frozen, Graph, Trained, train
from tutelage.data import Data, from_tensors
from tutelage.data.assemble import Policy
from tutelage.engine import train as training
from tutelage.engine.autotune import Tuned, begin, memory_folder
from tutelage.engine.loop import check
from tutelage.engine.precision import default_executions
from tutelage.engine.run import Run
from tutelage.engine.teacher_cache import store, use
from tutelage.engine.teacher_cache.codecs import Top, Whole
from tutelage.engine.teacher_cache.store import TeacherCache
from tutelage.errors import BusyError, UsageError
from tutelage.graph.controller import Controller
from tutelage.graph.divergences import cross_entropy, kl, mse
from tutelage.graph.modules import Projected, teacher_doubt
from tutelage.graph.sample_weights import entropy, margin
from tutelage.methods.dual_student import dual_student
from tutelage.methods.scratch import scratch
from tutelage.runs.folder import read_records
from tutelage.system import files
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint, in_use, locked

CPU = torch.device("cpu")
write_through = files._write_through


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "memory"))
    return tmp_path / "memory" / "teachers"


@pytest.fixture(autouse=True)
def nothing_is_looked_at(monkeypatch):
    """The rows that the checks at the start show to a teacher are not counted."""
    monkeypatch.setattr(training, "check_networks", lambda *arguments, **options: [])


UNEQUAL = torch.tensor([0] * 40 + [1] * 8 + [2] * 4 + [3] * 4)
EQUAL = torch.arange(56) % 4


def data(first: int = 0, augment: Policy = "crop-flip", labels: Tensor = EQUAL, **options) -> Data:
    images = torch.randint(0, 255, (56, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, 0] = first
    return from_tensors((images, labels), validation=0.25, augment=augment, **options)


def graph() -> Graph:
    return dual_student("t", ["a", "b"], uncertainty="mean_one", peer_weighting="none")


class Counted:
    """Networks whose teacher counts the rows it sees in training batches, and has the same bits in any order."""

    def __init__(self) -> None:
        self.models, self.rows = models(), 0
        self.models["t"][-1].__class__ = RowByRow
        # On a layer, and no method: a hook that goes with the copy which the loop runs, and counts here all the same.
        self.models["t"][0].register_forward_hook(lambda module, inputs, output: self.count(len(inputs[0])))

    def count(self, rows: int) -> None:
        self.rows += rows


def trained(*, epochs: int = 4, draws: int | None = 2, cache: bool | str = True, precision: str = "auto",
            of: Graph | None = None, cache_top: int | None = None, **options) -> tuple[list[str], int]:
    """Hashes of the students, and how many rows of training images the teacher saw.

    42 rows are 3 batches of 12, and a rest that is computed, in a whole batch, when a draw ends.
    """
    networks = Counted()
    for _ in train(of or graph(), networks.models, data(**options), epochs=epochs, optimizer=SGD, batch_size=12,
                   draws=draws, cache=cache, precision=precision, cache_top=cache_top):
        pass
    kept = cache is not False
    beside = 2 + 14 + (2 if kept else 0) + (24 if precision == "exact" and kept else 0)  # dry pass, validation, checks
    return [fingerprint(networks.models[node].state_dict()) for node in "ab"], networks.rows - beside


@pytest.mark.parametrize("options", [{}, {"mixup": 0.4}, {"mixup": 0.4, "cutmix": 1.0}], ids=["crop", "mixup", "both"])
def test_exact_training_has_the_same_bits_online_while_filling_and_from_the_cache(options):
    online, rows = trained(cache=False, precision="exact", **options)
    assert rows == 4 * 36
    assert trained(precision="exact", **options) == (online, 2 * (36 + 12))
    assert trained(precision="exact", **options) == (online, 0)


@pytest.mark.parametrize("balance", ["sqrt", "uniform"])
def test_rows_that_come_several_times_in_an_epoch_or_never_have_the_same_bits_from_the_cache(balance):
    given = {"precision": "exact", "balance": balance, "labels": UNEQUAL, "mixup": 0.4}
    online, _ = trained(cache=False, **given)
    filling, rows = trained(**given)
    assert filling == online
    assert rows > 2 * 36, "the rows that no batch had were computed at the end of a draw"
    assert trained(**given) == (online, 0)
    assert trained(**given | {"balance": "none"})[0] != online


def test_with_half_the_bits_a_run_that_fills_equals_one_that_looks_up():
    filling, rows = trained()
    assert rows == 2 * (36 + 12)
    assert trained() == (filling, 0)
    assert trained(cache="auto") == (filling, 0)


def test_half_the_bits_move_the_students_by_little(tmp_path):
    online, cached = Counted().models, Counted().models
    for networks, cache in ((online, False), (cached, True)):
        for _ in train(graph(), networks, data(), epochs=1, optimizer=SGD, batch_size=12, cache=cache):
            pass
    for one, other in zip(online["a"].parameters(), cached["a"].parameters(), strict=True):
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


def test_draws_that_come_again_show_the_same_images():
    seen: dict[int, Tensor] = {}
    for draw in (0, 1, 0, 1):
        (batch,) = data().train.batches([torch.arange(42)], draw=draw)
        assert torch.equal(seen.setdefault(draw, batch.inputs), batch.inputs)
    assert not torch.equal(seen[0], seen[1])


def shards(memory: Path) -> list[Path]:
    return sorted(path for path in memory.glob("*/draw-*/*") if path.is_dir())


def damage(shard: Path, how: str) -> None:
    values = shard / "values.npy"
    content = bytearray(values.read_bytes())
    if how == "flipped":
        content[-3] ^= 4
        values.write_bytes(content)
    elif how == "cut":
        values.write_bytes(content[:-10])
    elif how == "empty":
        values.write_bytes(b"")
    elif how == "gone":
        values.unlink()
    elif how == "manifest":
        (shard / "manifest.json").write_text("{}")


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone", "manifest"])
def test_a_damaged_block_is_computed_again_and_mended(how, own_memory):
    right, _ = trained()
    damage(shards(own_memory)[0], how)
    assert trained() == (right, 36 + 12)
    assert trained() == (right, 0)


def test_a_block_of_another_key_is_not_used(own_memory):
    right, _ = trained()
    other, _ = trained(of=dual_student("t", ["a", "b"], uncertainty=False))
    (own,) = {shard.parent.parent for shard in shards(own_memory)}  # the students' graph is not part of the key
    moved = own.with_name("0" * 64)
    own.rename(moved)
    assert trained()[0] == right != other
    shutil.rmtree(next(path for path in own_memory.iterdir() if path != moved))
    moved.rename(own_memory / own.name)  # back under its name it is read ...
    assert trained() == (right, 0)


def change_teacher(settings: dict) -> None:
    settings["networks"]["t"][0].weight.data[0] += 1e-3


def other_images(settings: dict) -> None:
    settings["data"] = data(seed=1)


def other_mixture(settings: dict) -> None:
    settings["data"] = data(mixup=0.2)


def other_policy(settings: dict) -> None:
    settings["data"] = data(augment="crop")


def other_pixels(settings: dict) -> None:
    settings["data"] = data(first=1)


def other_classes(settings: dict) -> None:
    settings["data"] = data(classes=["cat", "dog", "cow", "owl"])


def other_precision(settings: dict) -> None:
    settings["precision"] = "bf16"


@pytest.mark.parametrize("change", [change_teacher, other_images, other_mixture, other_policy, other_pixels,
                                    other_classes, other_precision])
def test_another_teacher_seed_augmentation_set_class_list_or_format_has_another_cache(change, own_memory):
    trained()
    before = {path: path.read_bytes() for path in own_memory.rglob("*.npy")}
    settings = {"networks": models(), "data": data(), "precision": "auto"}
    change(settings)
    for _ in train(graph(), settings["networks"], settings["data"], epochs=2, optimizer=SGD, batch_size=12, cache=True,
                   precision=settings["precision"]):
        pass
    assert len(list(own_memory.iterdir())) == 2
    assert {path: path.read_bytes() for path in before} == before


def test_a_full_disk_costs_the_cache_and_nothing_else_and_is_said_once(monkeypatch, own_memory, caplog):
    right, _ = trained(precision="exact", cache=False)
    synced = []

    def full(file: int) -> None:  # the second file of a shard no longer fits
        synced.append(file)
        if len(synced) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert trained(precision="exact")[0] == right
    assert not shards(own_memory)
    assert not list(own_memory.rglob("*.part"))
    assert [record.message for record in caplog.records] == [
        "note: the teacher's outputs are not kept: cannot write: No space left on device"]


def test_a_folder_for_caches_that_cannot_be_one_costs_the_cache_and_nothing_else(own_memory, caplog):
    right, _ = trained(precision="exact", cache=False)
    own_memory.parent.mkdir()
    own_memory.write_text("a file where the folder should be")
    assert trained(precision="exact")[0] == right
    assert len(caplog.records) == 1


def test_two_runs_at_once_share_a_cache_and_the_one_that_comes_second_writes_nothing(own_memory):
    right, _ = trained()
    (folder,) = own_memory.iterdir()
    shutil.rmtree(folder)
    with locked(folder):
        assert trained()[0] == right
    assert not shards(own_memory)
    assert trained()[0] == right
    assert trained() == (right, 0)


def test_a_block_of_another_draw_is_not_used(own_memory):
    right, _ = trained()
    first, second = shards(own_memory)
    shutil.rmtree(second)
    shutil.copytree(first, second)
    assert trained() == (right, 36 + 12)


def test_a_cache_that_is_killed_while_it_is_built_goes_on_where_it_was(own_memory):
    def build() -> int:
        networks = Counted()
        given = settings(4, limit_draws=3, cache=True)
        run = begin(check(graph(), networks.models, data(), given, World(CPU)), data(), given, World(CPU),
                    Tuned(default_executions("tab", "auto", CPU), cached=True))
        before = networks.rows
        assert list(use.fill_cache(run, 3)) == [0, 1, 2]
        return networks.rows - before

    child = os.fork()
    if not child:
        written = []
        store.write_folder = lambda *args: (files.write_folder(*args), written.append(args))
        files._write_through = lambda *args: (
            os.kill(os.getpid(), signal.SIGKILL) if len(written) == 1 else None, write_through(*args))
        build()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(shards(own_memory)) == 2, "one whole, and the half of another"
    assert build() == 2 * 48
    assert len(shards(own_memory)) == 3, "and what was left of the half is gone"
    assert build() == 0


def test_a_killed_first_epoch_is_filled_up_after_the_resume(tmp_path, own_memory):
    def run(out: Path, stop: int | None) -> list[str]:
        networks = models()
        for epoch in train(graph(), networks, data(), epochs=3, optimizer=SGD, batch_size=12, draws=1, cache=True,
                           out=out, checkpoint_steps=2):
            if epoch.number == stop:
                break
        return [fingerprint(networks[node].state_dict()) for node in "ab"]

    right = run(tmp_path / "whole", None)
    shutil.rmtree(own_memory)
    run(tmp_path / "broken", 1)
    shutil.rmtree(own_memory)  # and the disk has forgotten
    assert run(tmp_path / "broken", None) == right


def test_limits_hold_and_the_cache_that_was_used_longest_ago_goes(own_memory):
    trained()
    (first,) = own_memory.iterdir()
    size = sum(path.stat().st_size for path in first.rglob("*") if path.is_file())
    networks = models()
    change_teacher({"networks": networks})
    for _ in train(graph(), networks, data(), epochs=2, optimizer=SGD, batch_size=12, cache=True,
                   cache_gib=1.2 * size / 2**30):
        pass
    (left,) = own_memory.iterdir()
    assert left != first
    assert trained(cache=True)[1] == 2 * 48


def test_too_small_a_limit_keeps_nothing_and_says_so(own_memory):
    cache = TeacherCache(own_memory / "key", torch.arange(5), {"t": Whole(True, False)}, limit=10)
    cache.open(0)
    cache.look_up(torch.arange(5))
    rows = cache.record("t", torch.randn(5, 3))
    cache.finish(write=True)
    assert "no room within the limit" in cache.notes[0]
    assert not shards(own_memory)
    assert torch.equal(cache.look_up(torch.tensor([4]))["t"], rows[4:])  # in memory they serve until the next draw


def written(folder: Path, *, caches: float) -> TeacherCache:
    """A cache of one draw on the disk, closed; the limit is what so many of them take."""
    ids = torch.arange(1000)
    cache = TeacherCache(folder, ids, {"t": Whole(True, True)}, limit=round(caches * 17000))
    cache.open(0)
    cache.look_up(ids)
    cache.record("t", torch.zeros(1000, 3))
    cache.finish(write=True)
    cache.close()
    return cache


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


USE = """import sys
from pathlib import Path
import torch
from tutelage.engine.teacher_cache.codecs import Whole
from tutelage.engine.teacher_cache.store import TeacherCache
cache = TeacherCache(Path(sys.argv[1]), torch.arange(1000), {"t": Whole(True, True)}, limit=2**30)
cache.open(int(sys.argv[2]))
if sys.argv[2] == "1":
    cache.look_up(cache.ids)
    cache.record("t", torch.zeros(1000, 3))
    cache.finish(write=True)
print(len(cache.look_up(cache.ids)), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("draw", [0, 1], ids=["reading", "writing"])
def test_a_cache_that_another_process_uses_stays_and_the_next_oldest_goes(own_memory, draw):
    written(own_memory / "used", caches=2)
    written(own_memory / "free", caches=2)
    os.utime(own_memory / "free", (2, 2))
    command = [sys.executable, "-c", USE, str(own_memory / "used"), str(draw)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "1\n"
        os.utime(own_memory / "used", (1, 1))  # used longest ago, and used
        own = written(own_memory / "own", caches=2 + draw)
        assert names(own_memory) == ["own", "used"]
        assert own.notes == []
        other.stdin.close()
        other.wait()
    os.utime(own_memory / "used", (1, 1))
    written(own_memory / "next", caches=2)
    assert names(own_memory) == ["next", "own"]


def test_where_every_other_cache_is_in_use_none_goes_and_the_note_says_so(own_memory):
    held = [written(own_memory / name, caches=9) for name in ("a", "b")]
    for cache in held:
        cache.open(0)
    for _ in range(2):  # once more: nothing has let go in between
        own = written(own_memory / "own", caches=2)
        assert own.notes == ["the teacher's outputs are not kept: no room within the limit for caches: "
                             "the others are in use"]
        assert names(own_memory) == ["a", "b"]
    held[1].close()
    assert written(own_memory / "own", caches=2).notes == []
    assert names(own_memory) == ["a", "own"]


def test_a_cache_whose_folder_is_locked_stays(own_memory):
    written(own_memory / "a", caches=1)
    with locked(own_memory / "a"):
        assert "in use" in written(own_memory / "own", caches=1).notes[0]
    assert names(own_memory) == ["a"]


def test_what_would_not_make_enough_room_is_not_removed(own_memory):
    written(own_memory / "small", caches=2)
    assert "no room" in written(own_memory / "large", caches=0.5).notes[0]
    assert names(own_memory) == ["small"]


def test_reading_a_cache_counts_as_using_it(own_memory):
    read = written(own_memory / "read", caches=2)
    written(own_memory / "other", caches=2)
    for age, name in enumerate(("read", "other"), 1):
        os.utime(own_memory / name, (age, age))
    read.open(0)
    read.close()
    written(own_memory / "own", caches=2)
    assert names(own_memory) == ["own", "read"]


def test_a_crash_while_a_cache_is_removed_leaves_no_half_of_it_under_its_name(own_memory, monkeypatch):
    written(own_memory / "old", caches=1)
    with monkeypatch.context() as crash:
        crash.setattr(shutil, "rmtree", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            written(own_memory / "own", caches=1)
    (left,) = own_memory.iterdir()
    assert left.name.endswith(".part")
    assert written(own_memory / "own", caches=2).notes == []
    assert names(own_memory) == ["own"], "what was left of it is gone"


def test_a_run_uses_its_cache_until_it_ends_and_no_longer(own_memory):
    epochs = train(graph(), models(), data(), epochs=2, optimizer=SGD, batch_size=12, draws=1, cache=True)
    next(epochs)
    (folder,) = own_memory.iterdir()
    with pytest.raises(BusyError), in_use(folder, alone=True):
        pass
    epochs.close()
    with in_use(folder, alone=True):
        pass


def test_a_cache_that_is_removed_while_it_is_opened_is_not_taken_for_one(own_memory, monkeypatch):
    written(own_memory / "a", caches=1)
    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *words: (flock(*words), files.remove_folder(own_memory / "a")))
    with pytest.raises(BusyError, match="being removed"), in_use(own_memory / "a"):
        pass


def test_a_folder_that_another_made_in_its_place_is_not_the_one_that_is_held(own_memory, monkeypatch):
    written(own_memory / "a", caches=1)
    flock = fcntl.flock

    def swapped(*words: int) -> None:
        flock(*words)
        files.remove_folder(own_memory / "a")
        (own_memory / "a").mkdir()
        (own_memory / "a" / "use").touch()

    monkeypatch.setattr(fcntl, "flock", swapped)
    with pytest.raises(BusyError, match="being removed"), in_use(own_memory / "a", alone=True):
        pass


def test_a_disk_without_locks_costs_the_cache_and_nothing_else(own_memory, monkeypatch):
    def refuse(*words: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert "cannot be locked" in written(own_memory / "a", caches=1).notes[0]


def test_rows_are_found_by_id_in_any_order():
    ids = torch.tensor([40, 7, 19, 3])
    cache = TeacherCache(memory_folder() / "k", ids, {"t": Whole(True, True)}, limit=2**30)
    cache.open(0)
    rows = torch.arange(12.0).view(4, 3)
    cache.look_up(ids[:2])
    cache.record("t", rows[:2])
    assert cache.look_up(ids) == {}
    assert sorted(ids[cache.missing(["t"])].tolist()) == [3, 19]
    cache.look_up(ids[2:])
    cache.record("t", rows[2:])
    cache.finish(write=False)
    assert torch.equal(cache.look_up(ids.flip(0))["t"], rows.flip(0))


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 1e4])
@pytest.mark.parametrize("classes", [2, 100, 1000])
def test_the_stored_signal_is_within_a_millionth_of_a_nat(scale, classes):
    logits = scale * torch.randn(256, classes, generator=torch.Generator().manual_seed(0)) + 7 * scale
    form = Whole(logits=True, exact=False)
    again = form.decode(form.encode(logits))
    log_p, log_q = logits.double().log_softmax(-1), again.double().log_softmax(-1)
    assert (log_p.exp() * (log_p - log_q)).sum(-1).mean() <= 1e-6
    assert torch.equal(logits.argmax(-1), again.argmax(-1))
    form = Whole(logits=True, exact=True)
    assert torch.equal(form.decode(form.encode(logits)), logits)


def test_features_are_kept_too_and_views_apart(own_memory):
    edges = [Edge("labels", "a", cross_entropy), Edge("t.0", "a.0", Projected(mse)), Edge("t@strong", "b@strong", kl)]
    of = Graph({"t": Frozen(), "a": Trained(), "b": Trained()}, edges)
    right, _ = trained(of=of, precision="exact", cache=False)
    assert trained(of=of, precision="exact")[0] == right
    assert len({path.name for path in shards(own_memory)}) == 2
    assert trained(of=of, precision="exact")[0] == right


def test_where_a_controller_may_change_the_images_nothing_is_kept():
    assert use.cached_ends(Graph(graph().nodes, graph().edges, {"c": Controller()})) == ["t"]
    assert use.cached_ends(Graph(graph().nodes, graph().edges, {"c": Switch("b")})) == []


def test_asking_for_a_cache_without_a_teacher_is_an_error():
    with pytest.raises(UsageError, match="nothing to cache"):
        trained(of=scratch("a"))


def test_by_itself_a_run_caches_only_draws_that_come_again(own_memory):
    trained(cache="auto", draws=None)
    assert not own_memory.exists()
    trained(cache="auto", draws=3)
    assert own_memory.exists()


# --- the largest logits alone --------------------------------------------------------------------------------------


def logits_of(scale: float = 3.0, classes: int = 50) -> Tensor:
    return scale * torch.randn(64, classes, generator=torch.Generator().manual_seed(0)) + 5


def naive_top(row: list[float], count: int, temperature: float) -> list[float]:
    """A row in plain Python: the largest stay; the rest share evenly, at this temperature, what they hold together."""
    order = sorted(range(len(row)), key=lambda number: -row[number])
    held = sum(math.exp(row[number] / temperature) for number in order[count:])
    level = temperature * math.log(held / (len(row) - count))
    return [value if number in order[:count] else level for number, value in enumerate(row)]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("count", [1, 5, 49])
def test_top_rows_are_those_of_a_naive_computation(count, temperature):
    rows, top = logits_of(), Top(count, 50, temperature)
    again = top.decode(top.encode(rows))
    naive = torch.tensor([naive_top(row, count, temperature) for row in rows.tolist()])
    torch.testing.assert_close(again, naive, rtol=0, atol=8e-3)  # float16, 16 below the largest
    mine, theirs = ((logits.double() / temperature).softmax(-1) for logits in (again, rows))
    kept = rows.topk(count).indices
    torch.testing.assert_close(mine.gather(1, kept), theirs.gather(1, kept), rtol=8e-3, atol=0)
    kl_of_kept = (mine.gather(1, kept) * (mine.gather(1, kept) / theirs.gather(1, kept)).log()).sum(-1).abs()
    assert kl_of_kept.max() < 1e-3, "what is kept has the teacher's probability"
    torch.testing.assert_close(mine.sum(-1) - mine.gather(1, kept).sum(-1),
                               theirs.sum(-1) - theirs.gather(1, kept).sum(-1), rtol=0, atol=2e-4)


def test_sample_weights_of_top_rows_are_those_of_whole_rows():
    rows, sure = logits_of(), partial(entropy, temperature=2.0)
    top = Top(3, 50, 4.0, (entropy, sure, margin))
    kept = top.weights(top.encode(rows))
    for weight, function in zip(kept, top.of, strict=True):
        assert torch.equal(weight, function(rows, rows, None))
    assert not torch.allclose(kept[0], entropy(None, top.decode(top.encode(rows))), atol=0.01), "the row does not tell"


def test_what_top_rows_lose_is_measured_against_whole_rows():
    rows, top = logits_of(), Top(5, 50, 4.0, (entropy,))
    lost, spread, moved = top.losses(rows)
    p, q = ((x / 4).double().softmax(-1) for x in (rows, top.decode(top.encode(rows))))
    assert lost == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    assert spread == pytest.approx(float(1 - p.topk(5).values.sum(-1).mean()), rel=1e-4)
    assert 0.05 < spread < 0.9
    assert moved == 0


@pytest.mark.parametrize("rows", [torch.zeros(2, 6), torch.tensor([[0.0] + [-math.inf] * 5]), 1e6 * torch.eye(6)],
                         ids=["even", "impossible classes", "far apart"])
def test_extreme_rows_stay_numbers(rows):
    top = Top(2, 6, 4.0, (entropy,))
    assert top.decode(top.encode(rows)).isfinite().all()
    again = (top.decode(top.encode(rows)) / 4).softmax(-1)
    torch.testing.assert_close(again, (rows / 4).softmax(-1), rtol=1e-3, atol=1e-3)


def test_more_than_32767_classes_have_numbers_of_their_own():
    rows = torch.zeros(1, 40_000)
    rows[0, 39_999] = 9
    top = Top(1, 40_000, 1.0)
    assert top.decode(top.encode(rows)).argmax() == 39_999


def weighted(uncertainty: bool | str, peer_weighting: str = "none", label_weighting: str | None = None) -> Graph:
    return dual_student("t", ["a", "b"], uncertainty=uncertainty, peer_weighting=peer_weighting,
                        label_weighting=label_weighting)


@pytest.mark.parametrize("options", [(True,), (False,), ("mean_one",), (False, "1-w"), (True, "w", "1-w"),
                                     ("correct",)])
def test_a_run_on_top_rows_fills_and_looks_up_to_the_same_bits(options, own_memory):
    filling, rows = trained(of=weighted(*options), cache_top=2)
    assert rows == 2 * (36 + 12) + 12, "twelve more show what is lost"
    assert trained(of=weighted(*options), cache_top=2) == (filling, 12)
    assert filling != trained(of=weighted(*options))[0]


def test_the_weights_of_a_run_on_top_rows_are_the_teachers(monkeypatch):
    seen: list[tuple[Tensor, Tensor]] = []

    def look(self: Controller, run: Run, outputs: dict[str, Tensor], weights: dict) -> None:
        edge = next(edge for edge in run.graph.edges if edge.name == "t->a:kl/4")
        rows = torch.searchsorted(run.data.train.ids, outputs["ids"])
        (batch,) = run.data.train.batches([rows], draw=run.draw)
        whole = run.models["t"](batch.inputs)
        seen.append((edge.sample_weight(outputs["a"], outputs["t"], outputs["labels"]), entropy(None, whole)))
        assert (outputs["t"] - whole).abs().max() > 0.01

    monkeypatch.setattr(Controller, "before_losses", look)
    of = Graph(weighted(True).nodes, weighted(True).edges, {"c": Controller()})
    trained(of=of, cache_top=2, epochs=2, draws=1)
    assert len(seen) == 6
    for kept, right in seen:
        torch.testing.assert_close(kept, right, rtol=0, atol=1e-6)


def test_what_a_computed_node_makes_of_the_weight_is_the_teachers_too(monkeypatch):
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def look(self: Controller, run: Run, outputs: dict[str, Tensor], weights: dict) -> None:
        rows = torch.searchsorted(run.data.train.ids, outputs["ids"])
        (batch,) = run.data.train.batches([rows], draw=run.draw)
        seen.append((outputs["t_trust"], outputs["t_label_weight"], entropy(None, run.models["t"](batch.inputs))))

    monkeypatch.setattr(Controller, "before_losses", look)
    plain = dual_student("t", ["a", "b"], preset="cautious", label_weighting="1-w")
    trained(of=Graph(plain.nodes, plain.edges, {"c": Controller()}), cache_top=2, epochs=2, draws=1)
    assert len(seen) == 6
    for doubt, of_labels, right in seen:
        torch.testing.assert_close(doubt, 1 - right, rtol=0, atol=1e-6)
        torch.testing.assert_close(of_labels, 0.5 + 0.5 * (1 - right), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cache_top", [None, 2])
def test_a_computed_node_that_reads_nothing_is_left_alone(cache_top):
    plain = weighted(False)
    idle = Graph({**plain.nodes, "idle": Computed((), partial(torch.zeros, 1))}, plain.edges)
    assert trained(of=idle, cache_top=cache_top)[0] == trained(of=plain, cache_top=cache_top)[0]


def test_top_rows_have_a_cache_of_their_own_and_take_less_room(own_memory):
    trained()
    (whole,) = own_memory.iterdir()
    trained(cache_top=1)
    assert len(list(own_memory.iterdir())) == 2
    trained(cache_top=2)
    assert len(list(own_memory.iterdir())) == 3
    assert whole in own_memory.iterdir()
    top, logits = Top(10, 1000, 4.0, (entropy,)), logits_of(classes=1000)
    of_top, of_whole = (sum(column.nbytes for column in form.encode(logits).values())
                        for form in (top, Whole(True, False)))
    assert of_top * 30 < of_whole


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_damaged_top_rows_are_computed_again(how, own_memory):
    right, _ = trained(cache_top=2)
    damage(shards(own_memory)[0], how)
    assert trained(cache_top=2)[0] == right


def test_a_run_on_top_rows_says_what_it_loses(tmp_path, caplog):
    for _ in train(graph(), models(), data(), epochs=2, optimizer=SGD, batch_size=12, draws=1, cache=True, cache_top=2,
                   out=tmp_path / "run"):
        pass
    note = read_records(tmp_path / "run")[0]["notes"][0]
    assert note.startswith("of t's 4 logits the 2 largest are kept: of a first batch KL at T = 4 to what it says is ")
    assert [record.message for record in caplog.records] == [f"note: {note}"]


@pytest.mark.parametrize("options", [{"precision": "exact"}, {"cache": "auto"}, {"cache": False}])
def test_top_rows_need_a_cache_that_is_asked_for_and_are_never_exact(options):
    with pytest.raises(UsageError, match="largest logits alone change what is learned"):
        trained(cache_top=2, **options)


def own_weight(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return teacher[:, 0].sigmoid()


@pytest.mark.parametrize(("edges", "reason"), [
    ([Edge("t", "a", kl), Edge("t", "b", kl, temperature=4.0)], "read at the temperatures 1, 4"),
    ([Edge("t", "a", mse)], "mse may need all logits"),
    ([Edge("t", "a", kl, sample_weight=own_weight)], "own_weight may need all logits"),
    ([Edge("both", "a", kl), Edge("t", "b", kl)], "a computed node may need all logits"),
    ([Edge("b", "a", kl, sample_weight="named"), Edge("t", "b", kl)], "a computed node may need all logits"),
    ([Edge("b", "a", kl, sample_weight="doubt")], "no edge reads it")])
def test_ends_that_need_whole_rows_are_refused_with_the_reason(edges, reason):
    nodes = {"t": Frozen(), "a": Trained(), "b": Trained(), "both": Ensemble(["t", "b"]),
             "doubt": Computed(("t",), partial(teacher_doubt, entropy)),
             "named": Computed(("t",), lambda logits: 1 - entropy(None, logits))}
    with pytest.raises(UsageError, match=reason):
        trained(of=Graph(nodes, edges), cache_top=2)


def test_as_many_logits_as_classes_are_refused():
    with pytest.raises(UsageError, match="more logits than there are"):
        trained(cache_top=4)
