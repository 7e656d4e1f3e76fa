"""What is saved is whole or not there at all, and what is read back is what was written."""

import errno
import fcntl
import hashlib
import json
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from time import sleep

import pytest
import torch

from tutelage.errors import BusyError, ModelError, ResourceError
from tutelage.system import files
from tutelage.system.files import (
    MANIFEST,
    fingerprint,
    locked,
    pack,
    read_folder,
    remove_folder,
    sweep,
    unpack,
    write,
    write_folder,
    write_json,
)

FILES = {"a.bin": b"first file", "b.bin": bytes(range(40)), "empty": b""}
ABOUT = {"step": 8, "scores": {"a": 0.1 + 0.2, "none": None}, "classes": ["cat", "Mäuse\u2028"]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_with(number: int):
    def failing(*_, **__):
        raise OSError(number, os.strerror(number))
    return failing


@contextmanager
def mounted(folder: Path, *how: str) -> Iterator[None]:
    """Something mounted at `folder`, where this user may."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *how, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# Writing


def test_a_file_is_written_as_it_is_and_leaves_nothing_beside_it(tmp_path):
    write(tmp_path / "f", b"one")
    write(tmp_path / "f", b"two\0\xff")
    assert (tmp_path / "f").read_bytes() == b"two\0\xff"
    assert names(tmp_path) == ["f"]


def test_json_comes_back_as_it_was_and_can_be_read_by_a_person(tmp_path):
    write_json(tmp_path / "j", ABOUT)
    assert json.loads((tmp_path / "j").read_text(encoding="utf-8")) == ABOUT
    assert "Mäuse" in (tmp_path / "j").read_text(encoding="utf-8")


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_mode_that_the_user_wants_for_new_ones(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "f", b"")
        write_folder(tmp_path / "d", FILES, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "d" / MANIFEST).stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refused_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, number, call):
    write(tmp_path / "f", b"old")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], fail_with(number))
    with pytest.raises(ResourceError, match=os.strerror(number)) as error:
        write(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]
    assert error.value.exit_code == 6
    assert error.value.where == str(tmp_path / "f")
    assert "3 bytes" in error.value.expected
    assert "bytes free" in error.value.found


def test_an_exception_of_any_kind_between_write_and_rename_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt
    write(tmp_path / "f", b"old")
    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def killed_in(function, *, where: str) -> None:
    """Run `function` in a child that dies by SIGKILL when it would call Path.`where`."""
    child = os.fork()
    if child == 0:
        try:
            setattr(Path, where, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            function()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_kill_between_write_and_rename_leaves_the_old_file_and_what_is_left_is_swept(tmp_path):
    write(tmp_path / "f", b"old")
    killed_in(lambda: write(tmp_path / "f", b"new"), where="replace")
    killed_in(lambda: write_folder(tmp_path / "d", FILES, ABOUT), where="rename")
    (tmp_path / ".hidden").touch()
    assert len(names(tmp_path)) == 4
    assert (tmp_path / "f").read_bytes() == b"old"
    sweep(tmp_path)
    assert names(tmp_path) == [".hidden", "f"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which file was flushed")
def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Power loss: bytes and entries are flushed, then the name, then the folders that hold the name."""
    done, fsync, rename, replace = [], os.fsync, Path.rename, Path.replace

    def spy(file: int) -> None:
        fsync(file)
        done.append(Path(f"/proc/self/fd/{file}").readlink())
    monkeypatch.setattr(os, "fsync", spy)
    monkeypatch.setattr(Path, "rename", lambda self, to: done.append("named") or rename(self, to))
    monkeypatch.setattr(Path, "replace", lambda self, to: done.append("named") or replace(self, to))
    write_folder(tmp_path / "new" / "d", FILES, ABOUT)
    at = done.index("named")
    assert {path.name for path in done[: at - 1]} == {*FILES, MANIFEST}
    assert done[at - 1].name.endswith(".part")
    assert done[at + 1 :] == [tmp_path / "new", tmp_path]
    done.clear()
    write(tmp_path / "f", b"")
    assert done[0].name.startswith(".f.")
    assert done[1:] == ["named", tmp_path]


def test_a_disk_that_is_full_keeps_the_last_good_state(tmp_path):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        folder = tmp_path / "small"
        write(folder / "f", b"old")
        write_folder(folder / "one", FILES, ABOUT)
        for attempt in (lambda: write(folder / "f", bytes(10**5)),
                        lambda: write_folder(folder / "two", {"big": bytes(10**5)}, {})):
            with pytest.raises(ResourceError, match="No space left") as error:
                attempt()
            assert "room for 100000 bytes" in error.value.expected
            assert int(error.value.found.split()[0]) <= 65536
        assert names(folder) == ["f", "one"]
        assert (folder / "f").read_bytes() == b"old"
        assert read_folder(folder / "one")[1] == FILES
        write(folder / "f", b"room again")


def test_a_file_that_is_larger_than_allowed_is_told_and_leaves_the_old_one(tmp_path):
    write(tmp_path / "f", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ResourceError, match="File too large"):
            write(tmp_path / "f", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    folder = tmp_path / "shut"
    folder.mkdir()
    write(folder / "f", b"old")

    def refused() -> None:
        for attempt in (lambda: write(folder / "f", b"new"), lambda: write_folder(folder / "d", FILES, {}),
                        lambda: locked(folder / "run").__enter__()):
            with pytest.raises(ResourceError, match=r"cannot write: (Read-only|Permission)"):
                attempt()
    if os.geteuid() == 0:
        with mounted(folder, "--bind", str(folder)):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            refused()
    else:
        folder.chmod(0o500)
        refused()
        folder.chmod(0o700)
    assert names(folder) == ["f"]
    assert (folder / "f").read_bytes() == b"old"


@pytest.mark.parametrize("place", ["file/below", "missing/below", "long" * 100, "long" * 100 + "/below"])
def test_a_place_that_cannot_be_is_told_as_the_users_error(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot write") as error:
        write(tmp_path / place, b"x")
    assert error.value.where == str(tmp_path / place)
    with pytest.raises(ResourceError, match="cannot write"), locked(tmp_path / place.replace("missing", "file")):
        pass


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    write_folder(tmp_path / "d", FILES, ABOUT)
    with pytest.raises(ResourceError, match="not empty"):
        write_folder(tmp_path / "d", {"other": b""}, {})
    assert read_folder(tmp_path / "d")[1] == FILES
    assert names(tmp_path) == ["d"]


def test_a_removed_folder_is_gone_from_its_name_even_if_its_files_cannot_be_deleted(tmp_path, monkeypatch):
    write_folder(tmp_path / "d", FILES, ABOUT)
    with monkeypatch.context() as stuck:
        stuck.setattr(os, "unlink", fail_with(errno.EIO))
        remove_folder(tmp_path / "d")
    assert not (tmp_path / "d").exists()
    sweep(tmp_path)
    assert names(tmp_path) == []


# Reading


@pytest.fixture
def folder(tmp_path) -> Path:
    write_folder(tmp_path / "d", FILES, ABOUT)
    return tmp_path / "d"


def damaged(folder: Path) -> str:
    with pytest.raises(ModelError, match="damaged checkpoint") as error:
        read_folder(folder)
    assert error.value.exit_code == 4
    assert error.value.where.startswith(str(folder))
    return error.value.found


def test_a_folder_comes_back_as_it_was_written(folder):
    manifest, found = read_folder(folder)
    assert found == FILES
    sums = manifest.pop("files")
    assert manifest == ABOUT
    assert sums == {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                    for name, data in FILES.items()}


def test_every_flipped_bit_of_every_file_is_noticed(folder):
    for path in folder.iterdir():
        whole = path.read_bytes()
        with path.open("r+b") as file:
            for at in range(len(whole)):
                for bit in range(8):
                    os.pwrite(file.fileno(), bytes([whole[at] ^ 1 << bit]), at)
                    with pytest.raises(ModelError):
                        read_folder(folder)
                os.pwrite(file.fileno(), whole[at : at + 1], at)
    assert read_folder(folder)[1] == FILES


@pytest.mark.parametrize("name", ["a.bin", "b.bin", MANIFEST])
def test_every_truncation_and_every_added_byte_is_noticed(folder, name):
    whole = (folder / name).read_bytes()
    for length in range(len(whole)):
        (folder / name).write_bytes(whole[:length])
        damaged(folder)
    (folder / name).write_bytes(whole + b"\n")
    damaged(folder)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_noticed_and_named(folder, name):
    (folder / name).unlink()
    assert name in damaged(folder)


def test_an_extra_file_is_noticed_and_named(folder):
    (folder / "c.bin").touch()
    assert "c.bin" in damaged(folder)


def test_files_that_changed_places_are_noticed(folder, tmp_path):
    (folder / "a.bin").rename(folder / "t")
    (folder / "b.bin").rename(folder / "a.bin")
    (folder / "t").rename(folder / "b.bin")
    damaged(folder)
    write_folder(tmp_path / "e", FILES, {**ABOUT, "step": 12})
    (folder / "a.bin").write_bytes(FILES["a.bin"])
    (folder / "b.bin").write_bytes(FILES["b.bin"])
    read_folder(folder)
    (folder / MANIFEST).write_bytes((tmp_path / "e" / MANIFEST).read_bytes())
    assert read_folder(folder)[0]["step"] == 12  # the same files: only whole folders can be told apart by their step


@pytest.mark.parametrize("manifest", [
    b"", b"null", b"[]", b'"files"', b"{}", b'{"files": []}', b'{"files": {}, "sha256": ""}', b"\xff\xfe", b"[" * 10**5,
    b'{"files": {"../d/a.bin": {}}, "sha256": "0"}', b'{"files": ["a.bin"], "sha256": 0}', b"1e999999",
])
def test_a_manifest_of_any_other_kind_is_a_damaged_one(folder, manifest):
    (folder / MANIFEST).write_bytes(manifest)
    damaged(folder)


def test_a_manifest_cannot_name_what_lies_outside(folder, tmp_path):
    (tmp_path / "secret").write_bytes(b"s")
    about = {"files": {"../secret": {"bytes": 1, "sha256": hashlib.sha256(b"s").hexdigest()}}}
    for path in folder.iterdir():
        path.unlink()
    (folder / MANIFEST).write_bytes(files._sealed(about))
    assert "secret" in damaged(folder)


def test_what_is_no_folder_is_a_damaged_one(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file", "loop", "missing"):
        damaged(tmp_path / name)


# Tensors

TENSORS = {
    "float": torch.tensor([[1.5, -0.0, float("nan")], [float("inf"), 1e-45, 3.0]]),
    "double": torch.tensor([0.1], dtype=torch.float64), "half": torch.tensor([0.1], dtype=torch.float16),
    "bf16": torch.tensor([1 / 3, -7.0, 1e38]).bfloat16(), "int": torch.tensor([-(2**62), 3]),
    "int32": torch.tensor([[7]], dtype=torch.int32), "bytes": torch.arange(5, dtype=torch.uint8),
    "bool": torch.tensor([True, False]), "scalar": torch.tensor(2.5), "counter": torch.tensor(41),
    "empty": torch.empty(0), "no rows": torch.empty(0, 3, dtype=torch.int64),
    "transposed": torch.arange(6.0).view(2, 3).t(), "strided": torch.arange(10)[::3],
    "expanded": torch.tensor([1.0]).expand(4), "parameter": torch.nn.Parameter(torch.ones(2)),
}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    def raw(tensor: torch.Tensor) -> bytes:
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return one.dtype == other.dtype and one.shape == other.shape and raw(one) == raw(other)


def test_tensors_of_every_kind_come_back_to_the_bit():
    back, metadata = unpack(pack(TENSORS, {"a": "b\u2028"}), "here")
    assert metadata == {"a": "b\u2028"}
    assert back.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert same(back[name], tensor), name
    assert unpack(pack({}), "here") == ({}, {})


def test_tensors_that_share_memory_come_back_each_by_itself():
    base = torch.arange(6.0)
    back, _ = unpack(pack({"all": base, "tied": base, "part": base[2:4], "matrix": base.view(2, 3)}), "here")
    back["all"].zero_()
    assert same(back["tied"], torch.arange(6.0))
    assert same(back["part"], torch.tensor([2.0, 3.0]))
    assert same(back["matrix"], torch.arange(6.0).view(2, 3))


def test_what_is_packed_is_what_the_safetensors_format_says():
    data = pack({"b": torch.tensor([1.0, -2.0]), "a": torch.tensor([[3]])}, {"k": "v"})
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    assert header.pop("__metadata__") == {"k": "v"}
    assert {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()} == {
        "a": ("I64", [1, 1]), "b": ("F32", [2])}
    at = {name: slice(*entry["data_offsets"]) for name, entry in header.items()}
    assert struct.unpack("<q", body[at["a"]]) == (3,)
    assert struct.unpack("<2f", body[at["b"]]) == (1.0, -2.0)


def test_the_same_tensors_give_the_same_bytes():
    assert pack(TENSORS) == pack({name: tensor.clone() for name, tensor in TENSORS.items()})


@pytest.mark.parametrize("data", [
    b"", b"1234567", b"\xff" * 8, struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 2) + b"{}x",
    struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 4) + b"null", struct.pack("<Q", 10**5) + b"[" * 10**5,
    pack(TENSORS)[:-1], pack(TENSORS)[:100], pack(TENSORS) + b"\0", b"\x80\x04\x95 a pickle",
], ids=range(12))
def test_what_is_no_safetensors_file_is_named(data):
    with pytest.raises(ModelError, match="not a whole safetensors file") as error:
        unpack(data, "models/a.safetensors")
    assert error.value.where == "models/a.safetensors"


def test_a_header_that_would_exhaust_the_machine_is_not_read():
    tensors = {f"{number:0100}": torch.zeros(0) for number in range(30_000)}
    with pytest.raises(ModelError, match="a header of"):
        unpack(pack(tensors), "here")


def test_the_fingerprint_is_a_sha256_that_anyone_can_compute():
    by_hand = hashlib.sha256(b'["a", "torch.float32", [2]]' + struct.pack("<2f", 1.0, -2.0)
                             + b'["b", "torch.int64", []]' + struct.pack("<q", 3)).hexdigest()
    found = fingerprint({"b": torch.tensor(3), "a": torch.tensor([1.0, -2.0])})
    assert found == by_hand
    # It stands in checkpoints and in FINISHED, so it may never change:
    assert found == "419e27e47a3eb4ee74f99541d9e4ef22c115a5f2eecba57d108942a4eb264af1"


def test_the_fingerprint_depends_on_the_tensors_and_not_on_how_they_lie():
    shuffled = {name: TENSORS[name].clone() for name in reversed(TENSORS)}
    assert fingerprint(TENSORS) == fingerprint(shuffled)
    assert fingerprint({"a": TENSORS["transposed"]}) == fingerprint({"a": TENSORS["transposed"].contiguous()})


def test_every_bit_type_shape_and_name_moves_the_fingerprint():
    tensors = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0]).bfloat16()}
    seen = {fingerprint(tensors)}
    for name, tensor in tensors.items():
        for at in range(tensor.nbytes):
            for bit in range(8):
                changed = tensor.clone()
                changed.view(torch.uint8)[at] ^= 1 << bit
                seen.add(fingerprint({**tensors, name: changed}))
    assert len(seen) == 1 + 8 * (8 + 2)
    others = [{"a": tensors["a"]}, {**tensors, "c": torch.empty(0)}, {"a": tensors["a"], "c": tensors["b"]},
              {**tensors, "a": tensors["a"].view(1, 2)}, {**tensors, "a": tensors["a"].view(torch.int32)},
              {**tensors, "c": torch.empty(0, 2)}, {}]
    assert len(seen | {fingerprint(other) for other in others}) == len(seen) + len(others)
    assert fingerprint({"a": torch.zeros(1)}) != fingerprint({"a": -torch.zeros(1)})


# Locks

HOLD = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("refused", flush=True)
else:
    os.pwrite(file, b"process 1 on another-host", 0)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen]:
    """A process that takes the folder's lock by nothing but the system call, and says whether it could."""
    process = subprocess.Popen([sys.executable, "-S", "-c", HOLD, str(folder / "lock")], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def answer(folder: Path) -> str:
    with another_process(folder) as process:
        return process.stdout.readline().strip()


def test_a_held_folder_is_refused_in_this_process_and_in_others_until_it_is_let_go(tmp_path):
    with locked(tmp_path):
        assert answer(tmp_path) == "refused"
        with pytest.raises(BusyError, match="in use") as error, locked(tmp_path):
            pass
        assert error.value.exit_code == 7
        assert f"process {os.getpid()}" in error.value.found
        assert answer(tmp_path) == "refused", "the attempt of this process let go of the lock"
    assert answer(tmp_path) == "held"
    with locked(tmp_path):
        pass


def test_a_folder_that_another_process_holds_is_refused_and_its_owner_named(tmp_path):
    with another_process(tmp_path) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="in use") as error, locked(tmp_path):
            pass
        assert error.value.found == "process 1 on another-host"
        assert error.value.where == str(tmp_path)
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass


def test_the_lock_says_who_holds_it(tmp_path):
    write(tmp_path / "lock", b"x" * 500)
    with locked(tmp_path / "."):
        pass
    told = (tmp_path / "lock").read_text()
    assert told.startswith(f"process {os.getpid()} on {os.uname().nodename}, since 20")
    assert "x" not in told.split("since")[1]


def test_one_folder_by_two_paths_is_one_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with locked(tmp_path / "real"), pytest.raises(BusyError), locked(tmp_path / "link"):
        pass


def test_two_folders_are_held_at_once_and_an_error_inside_lets_go(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "a"), locked(tmp_path / "b"):
        raise KeyError
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        pass


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", fail_with(errno.ENOLCK))
    with pytest.raises(ResourceError, match="cannot be locked"), locked(tmp_path):
        pass


def test_a_full_disk_at_the_lock_is_told_and_lets_go(tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", fail_with(errno.ENOSPC))
        with pytest.raises(ResourceError, match="No space left"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_of_threads_that_come_at_once_one_holds_a_folder(tmp_path):
    together, inside, most = Barrier(8), list[int](), list[int]()

    def hold(number: int) -> int:
        taken = 0
        for _ in range(50):
            together.wait()
            try:
                with locked(tmp_path / "run"):
                    inside.append(number)
                    most.append(len(inside))
                    taken += 1
                    sleep(0.001)  # others may come while it is held
                    inside.remove(number)
            except BusyError:
                pass
        return taken

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(hold, range(8))) >= 50
    assert max(most) == 1
