"""What the process knows of its machine is true, and what it asks of it changes speed alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tutelage.system.machine import describe_machine, keep_memory, peak_memory

CPU = torch.device("cpu")
MIB = 2**20

TRAIN = """
import sys, hashlib, torch
torch.set_num_threads(1)
from tutelage.system.machine import keep_memory
told = keep_memory() if sys.argv[1] == "kept" else None
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Flatten(),
                          torch.nn.Linear(16 * 30 * 30, 10))
sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
for _ in range(3):
    sgd.zero_grad()
    net(torch.randn(64, 3, 32, 32)).square().mean().backward()
    sgd.step()
bits = b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())
print(told, hashlib.sha256(bits).hexdigest())
"""

GROW = """
import torch
from pathlib import Path
from tutelage.system.machine import peak_memory
cpu = torch.device("cpu")
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
first, held = peak_memory(cpu)["host"], resident()
block = torch.ones(200 * 2**20 // 4)
second, more = peak_memory(cpu)["host"], resident()
del block
print(first, held, second, more, peak_memory(cpu)["host"])
"""


def python(code: str, *words: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_keeping_memory_says_whether_it_could_and_does_it_once():
    assert keep_memory() is keep_memory()
    assert isinstance(keep_memory(), bool)


def test_results_have_the_same_bits_whether_or_not_memory_is_kept():
    (told, kept), (_, plain) = python(TRAIN, "kept"), python(TRAIN, "plain")
    assert told in ("True", "False")
    assert kept == plain


def test_where_the_allocator_cannot_be_told_it_is_said_and_nothing_breaks(monkeypatch):
    def no_library(name):
        raise OSError("no such library")

    monkeypatch.setattr("tutelage.system.machine.ctypes.CDLL", no_library)
    assert keep_memory.__wrapped__() is False


def test_an_allocator_that_refuses_is_told_apart(monkeypatch):
    asked = []

    class Library:
        def mallopt(self, option, value):
            asked.append((option, value))
            return int(option != -4)

    monkeypatch.setattr("tutelage.system.machine.ctypes.CDLL", lambda name: Library())
    assert keep_memory.__wrapped__() is False
    assert asked == [(-3, 2**31 - 1), (-1, 2**31 - 1), (-4, 0)]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_the_peak_grows_with_what_is_held_stays_when_it_is_freed_and_begins_with_this_process():
    ballast = torch.ones(600 * MIB // 4)  # of the parent: a child's peak has nothing to do with it
    first, held, second, more, after = map(int, python(GROW))
    assert first + 8 * MIB >= held > 50 * MIB  # the kernel counts pages a little late
    assert second - first > 150 * MIB
    assert second + 8 * MIB >= more > held + 150 * MIB
    assert after + 8 * MIB >= second
    assert first < held + 100 * MIB
    assert len(ballast)


def test_on_a_cpu_only_main_memory_is_told():
    assert list(peak_memory(CPU)) == ["host"]


def test_a_machine_is_described_by_its_processor_its_threads_and_torch():
    line = describe_machine("cpu")
    assert f"{torch.get_num_threads()} threads, torch {torch.__version__}" in line
    assert not line.startswith(",")
    assert "\n" not in line
