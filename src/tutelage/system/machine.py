"""What this process may know and set of the machine it runs on."""

import ctypes
import os
import platform
import re
import resource
import signal
from functools import cache
from pathlib import Path
from types import FunctionType

import torch

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _MMAP_MAX = -3, -1, -4
"""Options of glibc's mallopt (malloc.h)."""
_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""


@cache
def keep_memory() -> bool:
    """Let glibc keep the memory of large tensors instead of giving it back to the kernel; whether it could be told.

    By default every activation of a step is mapped anew and its pages are faulted in one by one: a sixth of the time
    of a convolutional network's step. The results have the same bits. Done once in a process, for good.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # not glibc
    largest = 2**31 - 1
    return all([mallopt(_MMAP_THRESHOLD, largest), mallopt(_TRIM_THRESHOLD, largest), mallopt(_MMAP_MAX, 0)])


def die_with_parent(parent: int) -> None:
    """Let Linux send this process SIGTERM when the thread that started it is gone, however that went.

    `parent` is the number of the process that started it: it may be gone already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most bytes held so far: by this process in main memory ("host"), and on an accelerator ("device")."""
    status = Path("/proc/self/status")  # where there is none: getrusage, which begins with what the parent held
    peaks = re.findall(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else []
    found = {"host": int(peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024}
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(device)
    return found


def free_memory(device: torch.device) -> int | None:
    """The bytes of memory on a device that nobody uses; None where the machine does not say it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    status = Path("/proc/meminfo")
    found = re.findall(r"MemAvailable:\s*(\d+) kB", status.read_text()) if status.exists() else []
    return int(found[0]) * 1024 if found else None


@cache
def processor_of(device: str) -> str:
    """The name of the processor or accelerator that computes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def describe_machine(device: str) -> str:
    """The processor that computes, the number of threads and the version of torch, in one line."""
    threads = "" if torch.device(device).type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{processor_of(device)}{threads}, torch {torch.__version__}"


def with_code_of_its_own(function: FunctionType) -> FunctionType:
    """The same function. torch's compiler counts what it made of one code object, and gives up after a few."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__,
                        function.__closure__)
