"""The clean process in which an exported file runs: it knows the file, what it is given, and nothing of the network.

It reads one safetensors message from stdin and writes one to stdout, so that nothing is ever put on the disk. It loads
what it is given only if the SHA-256 is that of the file which was just written: a .pt2 or .pte of unknown origin is
never loaded. An .onnx file needs no torch here, as on a device.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import safetensors.numpy

from tutelage.exporting.predict import detections

Inputs = Mapping[str, np.ndarray]
"""What the file is given: "images"; of series "values", "mask"; of text "tokens", "places"."""
Run = Callable[[Inputs], np.ndarray]
WARM_UP = 5
LEAST_RUNS, MOST_RUNS, SECONDS = 10, 100, 2.0


def main() -> None:
    """Answer the request on stdin."""
    answer_to = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print where they like; the answer stays clean
    request = sys.stdin.buffer.read()
    size = int.from_bytes(request[:8], "little")
    told = json.loads(request[8 : 8 + size])["__metadata__"]
    tensors = safetensors.numpy.load(request)
    data = tensors.pop("file").tobytes()
    if hashlib.sha256(data).hexdigest() != told["sha256"]:
        sys.exit("this is not the file that was just written")
    run, about = {"onnx": onnx, "pt2": pt2, "pte": pte}[told["format"]](data) if told["format"] != "safetensors" else (
        weights(data, json.loads(told["plugins"])))
    asked: dict[str, dict[str, np.ndarray]] = {}
    for name in sorted(tensors):
        number, _, own = name.partition(" ")
        asked.setdefault(number, {})[own] = tensors[name]
    logits = {number: run(given) for number, given in asked.items()}
    seconds = measured(run, {name: tensor[:1] for name, tensor in next(iter(asked.values())).items()})
    answer = safetensors.numpy.save({**logits, "seconds": np.array(seconds)}, {"about": about})
    with os.fdopen(answer_to, "wb") as out:
        out.write(answer)


def measured(run: Run, given: Inputs) -> list[float]:
    """The seconds of single runs, after some that do not count."""
    for _ in range(WARM_UP):
        run(given)
    seconds: list[float] = []
    while len(seconds) < LEAST_RUNS or (len(seconds) < MOST_RUNS and sum(seconds) < SECONDS):
        start = time.perf_counter()
        run(given)
        seconds.append(time.perf_counter() - start)
    return seconds


def onnx(data: bytes) -> tuple[Run, str]:
    """An .onnx file in onnxruntime, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map["tutelage"]
    if any(output.name == "boxes" for output in session.get_outputs()):
        return lambda given: detections(*session.run(["boxes", "scores", "classes"], dict(given))), about
    only = session.get_outputs()[0].name
    return lambda given: np.asarray(session.run([only], dict(given))[0]), about


def pt2(data: bytes) -> tuple[Run, str]:
    """A .pt2 archive in torch, on one thread."""
    import io

    import torch

    torch.set_num_threads(1)
    extra = {"tutelage.json": ""}
    module = torch.export.load(io.BytesIO(data), extra_files=extra).module()

    def run(given: Inputs) -> np.ndarray:
        with torch.no_grad():
            return module(*map(torch.from_numpy, in_order(given))).numpy()

    return run, extra["tutelage.json"]


def pte(data: bytes) -> tuple[Run, str]:
    """A .pte file in ExecuTorch's runtime."""
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(data)
    forward, told = program.load_method("forward"), program.load_method("tutelage")
    assert forward is not None
    assert told is not None
    return (lambda given: forward.execute([*map(torch.from_numpy, in_order(given))])[0].numpy().copy(),
            told.execute([])[0])


def weights(data: bytes, plugins: list[str]) -> tuple[Run, str]:
    """A .safetensors file in the network that its metadata describe, on one thread."""
    import torch

    from tutelage.exporting.module import said_of
    from tutelage.exporting.text import view_for
    from tutelage.models.saved import load_network
    from tutelage.models.weights import read_metadata
    from tutelage.tasks.forecast.rows import gaussians_of

    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="tutelage-") as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        network, told = load_network(path, plugins=plugins)[0].eval(), read_metadata(path)["tutelage"]

    output = json.loads(told)["output"]
    shape, numbers = output["shape"], output["name"] == "forecast"
    size = (shape[2], shape[3]) if len(shape) == 4 and shape[2] != "any" else None  # of a map

    def run(given: Inputs) -> np.ndarray:
        view = {name: torch.from_numpy(array) for name, array in given.items()}
        with torch.no_grad():
            said = said_of(network, view_for(network, view), size)
            return (gaussians_of(said, shape[1]) if numbers else said).numpy()

    return run, told


def in_order(given: Inputs) -> list[np.ndarray]:
    """The inputs as a graph takes them: a mask, or places, come last."""
    return [given[name] for name in ("images", "values", "mask", "tokens", "places") if name in given]


if __name__ == "__main__":
    main()
