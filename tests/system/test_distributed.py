"""Ranks: what one computes alone, two compute together; and no one waits for a rank that has failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toys import free_port
from tutelage.errors import DataError, ResourceError, UsageError
from tutelage.system import distributed as room
from tutelage.system.distributed import (
    World,
    average,
    choose_device,
    connect,
    disconnect,
    gather_rows,
    gather_uneven,
    largest,
    lead,
)

CPU = torch.device("cpu")
ALONE = World(CPU)

SCRIPT = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from tutelage.errors import DataError, PeerError
from tutelage.system.distributed import average, connect, disconnect, gather_rows, gather_uneven, largest, lead

world = connect("cpu")
found = {"rank": world.rank, "size": world.size, "main": world.main, "device": str(world.device)}

rows = torch.arange(12.0, dtype=torch.float64).view(6, 2)
own = world.own(rows).clone().requires_grad_()
gathered = gather_rows(own, world)
weights = torch.arange(1.0, 13.0, dtype=torch.float64).view(6, 2)
(gathered * weights).sum().backward()
found |= {"own": own.tolist(), "gathered": gathered.tolist(), "gradient": own.grad.tolist()}
strided = gather_rows((torch.arange(6) + 10 * world.rank).view(2, 3).t(), world)
found["strided"] = strided.tolist()
found["labels"] = gather_rows(torch.tensor([world.rank, 7]), world).tolist()

for count in (1, 2, 5, 6):
    mine = torch.arange(count)[world.rank :: world.size]
    found[f"uneven {count}"] = gather_uneven(mine[:, None] * torch.tensor([1.0, 10.0]), count, world).tolist()

tensors = [torch.full((2, 2), 1.0 + world.rank), torch.tensor(3 + world.rank), torch.tensor(2.0 * world.rank).double(),
           torch.empty(0), torch.arange(4.0).view(2, 2).t() * (1 + world.rank)]
average(iter(tensors), world)
average([torch.tensor(1)], world)
found |= {"average": [tensor.tolist() for tensor in tensors], "types": [str(tensor.dtype) for tensor in tensors]}
found["largest"] = [largest(number, world) for number in (world.rank, -world.rank, 2**40 * (1 - world.rank))]

done = []
lead(world, (lambda: done.append(1)) if world.main else None)
found["led"] = done

def fail():
    raise DataError("an image cannot be read", where="cat.jpg")
try:
    lead(world, fail if world.main else None)
except (DataError, PeerError) as error:
    found |= {"error": type(error).__name__, "code": error.exit_code, "where": error.where, "what": error.what}
found["after"] = largest(world.rank, world)  # the group still works: nobody waits for somebody
Path(sys.argv[1], f"{world.rank}.json").write_text(json.dumps(found))
disconnect()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder, port = tmp_path_factory.mktemp("ranks"), str(free_port())
    processes = []
    for rank in "01":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                       "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "GLOO_SOCKET_IFNAME": "lo"}
        processes.append(subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=environment,
                                          stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert len(list(folder.iterdir())) == 2, errors  # a finished gloo process may still abort in its teardown
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in "01"]


def test_ranks_know_their_place(ranks):
    assert [(rank["rank"], rank["size"], rank["main"], rank["device"]) for rank in ranks] == [
        (0, 2, True, "cpu"), (1, 2, False, "cpu")]


def test_every_rank_sees_the_rows_of_all_in_the_order_of_one_process(ranks):
    rows = torch.arange(12.0).view(6, 2).tolist()
    assert ranks[0]["own"] + ranks[1]["own"] == rows
    for rank in ranks:
        assert rank["gathered"] == rows
        assert rank["strided"] == [[0, 3], [1, 4], [2, 5], [10, 13], [11, 14], [12, 15]]
        assert rank["labels"] == [0, 7, 1, 7]


def test_backward_gives_a_rank_its_own_rows_times_the_number_of_ranks(ranks):
    """So that the mean over ranks, which DDP takes, is the gradient that one process has."""
    gradient = torch.arange(1.0, 13.0).view(6, 2)
    assert ranks[0]["gradient"] == (2 * gradient[:3]).tolist()
    assert ranks[1]["gradient"] == (2 * gradient[3:]).tolist()


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_uneven_rows_come_together_each_once_and_in_order(ranks, count):
    for rank in ranks:
        assert rank[f"uneven {count}"] == [[float(row), 10.0 * row] for row in range(count)]


def test_the_average_is_over_ranks_and_leaves_whole_numbers_alone(ranks):
    for number, rank in enumerate(ranks):
        assert rank["average"] == [[[1.5, 1.5], [1.5, 1.5]], 3 + number, 1.0, [], [[0.0, 3.0], [1.5, 4.5]]]
        assert rank["types"] == ["torch.float32", "torch.int64", "torch.float64", "torch.float32", "torch.float32"]


def test_the_largest_number_is_known_to_all(ranks):
    assert [rank["largest"] for rank in ranks] == [[1, 0, 2**40]] * 2


def test_rank_0_leads_and_its_error_stops_the_others_at_once(ranks):
    assert [rank["led"] for rank in ranks] == [[1], []]
    assert (ranks[0]["error"], ranks[0]["code"], ranks[0]["where"]) == ("DataError", 3, "cat.jpg")
    assert (ranks[1]["error"], ranks[1]["code"], ranks[1]["where"]) == ("PeerError", 8, "rank 1")
    assert "rank 0 could not go on" in ranks[1]["what"]
    assert [rank["after"] for rank in ranks] == [1, 1]


# One process


def test_one_process_needs_no_group():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows, ALONE) is rows
    assert gather_uneven(rows, 3, ALONE) is rows
    assert largest(-4, ALONE) == -4
    tensor = torch.tensor([1.0, 2.0])
    average([tensor], ALONE)
    assert tensor.tolist() == [1.0, 2.0]
    assert ALONE.main
    disconnect()


def test_an_error_of_the_only_rank_is_its_own():
    done = []
    lead(ALONE, lambda: done.append(1))
    lead(ALONE, None)
    assert done == [1]

    def fail() -> None:
        raise DataError("no")
    with pytest.raises(DataError):
        lead(ALONE, fail)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shares_are_contiguous_equal_and_whole(size):
    rows = torch.arange(12)
    shares = [World(CPU, rank, size).own(rows) for rank in range(size)]
    assert torch.equal(torch.cat(shares), rows)
    assert {len(share) for share in shares} == {12 // size}


def test_without_torchrun_there_is_one_process(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert connect("cpu") == ALONE


@pytest.mark.parametrize(("name", "error", "says"), [
    ("cpuu", UsageError, "unknown device"), ("", UsageError, "unknown device"), ("meta", UsageError, "does not train"),
    ("cuda", ResourceError, "no CUDA device"), ("cuda:1", ResourceError, "no CUDA device"),
])
def test_a_device_that_is_not_there_is_told(monkeypatch, name, error, says):
    monkeypatch.setattr(room.torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=says) as caught:
        choose_device(name)
    assert caught.value.where == "device"
    assert choose_device("auto") == choose_device("cpu") == CPU


def test_each_rank_takes_the_accelerator_of_its_number(monkeypatch):
    chosen = []
    monkeypatch.setattr(room.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(room.torch.cuda, "set_device", chosen.append)
    assert choose_device("auto", 3) == choose_device("cuda", 3) == torch.device("cuda", 3)
    assert choose_device("cuda:1", 3) == torch.device("cuda", 1)
    assert choose_device("cpu", 3) == CPU
    assert chosen == [torch.device("cuda", 3), torch.device("cuda", 3), torch.device("cuda", 1)]
