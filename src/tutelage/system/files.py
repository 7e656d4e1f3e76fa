"""Durable, checksummed writes and verified reads: everything that is saved goes through here.

A file or folder appears whole or not at all, also after a crash or a power cut: it is written beside its place,
flushed to the disk, renamed, and the folder above it is flushed too. What is read back is checked against the
SHA-256 that was noted when it was written; no format notices a flipped bit by itself. Nothing is ever unpickled.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from tutelage.errors import BusyError, ModelError, ResourceError

MANIFEST = "manifest.json"
LARGEST_HEADER = 4 * 2**20
"""Bytes of a safetensors header that are believed; thousands of tensors need a hundredth of it."""
_held: set[Path] = set()
_guard = threading.Lock()


def write(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, and on the disk when this returns."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with disk_errors(path, len(data)):
        try:
            _write_through(part, data)
            part.replace(path)
            _sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """`write` as JSON that a person can read."""
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_folder(path: Path, files: Mapping[str, bytes], about: Mapping[str, object], *, replace: bool = False) -> None:
    """A new folder with `files` and a manifest of `about`, sizes and SHA-256, whole or not at all.

    With `replace` a folder that is there stays until the new one is on the disk, and then gives way to it.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    sums = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    manifest = _sealed({**about, "files": sums})
    with disk_errors(path, sum(map(len, files.values()))):
        try:
            part.mkdir(parents=True)
            for name, data in {**files, MANIFEST: manifest}.items():
                _write_through(part / name, data)
            _sync_folder(part)
            if replace and path.exists():
                remove_folder(path)
            part.rename(path)
            _sync_folder(path.parent)
            _sync_folder(path.absolute().parent.parent)  # that folder may be new itself
        finally:
            shutil.rmtree(part, ignore_errors=True)


def read_folder(path: Path, what: str = "checkpoint") -> tuple[dict, dict[str, bytes]]:
    """The manifest and the files of a folder, each checked; a folder that differs in any byte is a ModelError.

    `what` is how an error calls it.
    """
    try:
        sealed = (path / MANIFEST).read_bytes()
        manifest = json.loads(sealed)
        manifest.pop("sha256")
        if _sealed(manifest) != sealed:
            raise ValueError(f"{MANIFEST} is not as it was written")
        if odd := {file.name for file in path.iterdir()} ^ {MANIFEST, *manifest["files"]}:
            raise ValueError(f"{sorted(odd)} only in the folder or only in {MANIFEST}")
        files = {name: (path / name).read_bytes() for name in manifest["files"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"a damaged {what}", where=path, found=f"{type(error).__name__}: {error}") from None
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != manifest["files"][name]["sha256"]:
            raise ModelError(f"a damaged {what}", where=path / name, found=f"{len(data)} bytes of another content",
                             expected=f"{manifest['files'][name]['bytes']} bytes with the SHA-256 of {MANIFEST}")
    return manifest, files


def remove_folder(path: Path) -> None:
    """Take a folder away in one step, so that a crash leaves no half of it under its name."""
    gone = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with disk_errors(path, 0):
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what writers that died have left; only for whoever holds the folder's lock."""
    for part in folder.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as the bytes of a safetensors file; tied tensors are written once for each name."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(own, dict(metadata) if metadata else None)


def unpack(data: bytes, where: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; `where` is named if it is none."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        if size > LARGEST_HEADER:
            raise ValueError(f"a header of {size} bytes; {LARGEST_HEADER} at most are read")
        header = json.loads(data[8 : 8 + size])
        return safetensors.torch.load(data), header.get("__metadata__", {})
    except Exception as error:
        raise ModelError("not a whole safetensors file", where=where, found=str(error),
                         fix="copy or download the file again") from None


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over tensors in the order of their names: name, type, shape and bytes of each.

    >>> a, b = torch.zeros(2), torch.ones(2)
    >>> fingerprint({"a": a, "b": b}) == fingerprint({"b": b, "a": a}) != fingerprint({"a": b, "b": a})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` alone; BusyError if another run does. The kernel lets go when a process dies, however it dies."""
    folder = folder.resolve()
    with _guard:  # two threads may come at once
        # A POSIX lock does not stand between two runs of one process; worse, whoever closes a second handle on its file
        # lets the first one's lock go.
        if folder in _held:
            raise _busy(folder, f"process {os.getpid()}, this one")
        _held.add(folder)
    try:
        with disk_errors(folder, 4096):
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise ResourceError("the run folder cannot be locked", where=folder, found=error.strerror) from None
                raise _busy(folder, os.pread(file, 500, 0).decode() or "a lock") from None
            owner = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            with disk_errors(folder, 4096):
                os.truncate(file, 0)
                os.pwrite(file, owner.encode(), 0)
            yield
        finally:
            os.close(file)
    finally:
        _held.discard(folder)


def is_locked(folder: Path) -> bool:
    """Whether a run holds `folder` now: a hint, for who then takes the lock may still find that another was faster."""
    if folder.resolve() in _held:
        return True
    try:
        file = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go when the file is closed
    except OSError:
        return True
    finally:
        os.close(file)
    return False


@contextmanager
def in_use(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Keep a folder that is there from being removed; `alone` is for whoever removes it: BusyError if it is in use.

    Any number may use a folder at once, also in one process, beside the one that holds it by `locked`. The kernel lets
    go when a process dies.
    """
    path = folder / "use"
    with disk_errors(path, 0):
        file = os.open(path, os.O_CREAT | (os.O_RDWR if alone else os.O_RDONLY), 0o666)
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            there = os.path.samestat(os.fstat(file), path.stat())  # whoever removed it may have been faster
        except FileNotFoundError:
            there = False
        except BlockingIOError:
            raise BusyError("the folder is in use", where=folder) from None
        except OSError as error:
            raise ResourceError("the folder cannot be locked", where=folder, found=error.strerror) from None
        if not there:
            raise BusyError("the folder is being removed", where=folder)
        yield
    finally:
        os.close(file)


@contextmanager
def disk_errors(path: Path, needed: int) -> Iterator[None]:
    """Tell what the operating system refuses as a ResourceError that names the path and the room on its disk."""
    try:
        yield
    except OSError as error:
        existing = next(folder for folder in [path, *path.absolute().parents] if os.access(folder, os.F_OK))
        free = shutil.disk_usage(existing).free
        raise ResourceError(f"cannot write: {error.strerror or error}", where=path,
                            found=f"{free} bytes free on the disk", expected=f"room for {needed} bytes, and permission",
                            fix="free some room, or choose another --out") from error


def _sealed(manifest: Mapping[str, object]) -> bytes:
    """JSON whose last field is the SHA-256 of the JSON without it."""
    plain = json.dumps(manifest, indent=1).encode()
    return json.dumps({**manifest, "sha256": hashlib.sha256(plain).hexdigest()}, indent=1).encode()


def _busy(folder: Path, owner: str) -> BusyError:
    return BusyError("the run folder is in use", where=folder, found=owner,
                     fix="wait for that run, stop it, or choose another --out")


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
