"""A student as the bytes of a file. Each format holds the network, its preparation and what `about` says."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tutelage.data.series_scaling import SeriesScaling
from tutelage.data.text_preparation import TextPreparation
from tutelage.errors import ModelError, UsageError, unknown
from tutelage.exporting.boxes import PLACED, SCORED, append_suppression
from tutelage.exporting.module import (
    FUSED,
    Choice,
    Format,
    Prepare,
    Shipped,
    ShippedBoxes,
    ShippedNumbers,
    ShippedSeries,
    Student,
    about_text,
    input_names,
)
from tutelage.exporting.recurrent import require_exportable, translations, whole_units
from tutelage.exporting.text import ShippedText, followed_text
from tutelage.models.network import weights_of
from tutelage.models.saved import metadata_of
from tutelage.system import files
from tutelage.tasks.classification.task import CLASSIFICATION

ABOUT = "tutelage"
"""Under this name the file keeps what `about` says: an entry of the metadata, or a method that returns it."""
LARGEST_BATCH = 16
LARGEST_SIDE = 1024
"""Pixels. ExecuTorch plans its memory ahead, so batch and sides of a .pte need a limit."""
LARGEST_ONNX = 2**31 - 1
_EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pte": ("executorch",)}


def format_of(name: str, given: str | None) -> Format:
    """The format asked for, or else the one that the file's suffix means."""
    asked = given or name.rpartition(".")[2].lower()
    for known in get_args(Format):
        if asked == known:
            return known
    raise unknown("format", asked, get_args(Format), where="--format" if given else f"--to {name}")


def require_possible(choice: Choice, series: bool = False, boxes: bool = False, numbers: bool = False,
                     fuses: bool = False) -> None:
    """Refuse what a format cannot hold, and say which package is missing, before anything is computed."""
    if fuses and (choice.int8 or choice.resize):
        raise UsageError("a network that fuses takes images of any size, in 32-bit numbers", fix="leave it out",
                         where="--int8" if choice.int8 else "--resize")
    if choice.int8 and choice.format != "onnx":
        raise UsageError("8-bit numbers are made of an ONNX file only", where="--int8", found=choice.format,
                         fix="--format onnx")
    if choice.int8 and numbers:
        raise UsageError("numbers are not kept by 8 bits", where="--int8", fix="leave --int8 out")
    if choice.resize and numbers:
        raise UsageError("what forecasts takes one shape", where="--resize", fix="leave --resize out")
    if choice.resize and series:
        raise UsageError("series are not resized: a graph takes them at any length", where="--resize",
                         fix="leave --resize out")
    if choice.resize and boxes:
        raise UsageError("a detector does not resize: its boxes are in pixels of what it is given", where="--resize",
                         fix="leave --resize out: `tutelage predict` fits images, and scales boxes back")
    if choice.resize and choice.format == "safetensors":
        raise UsageError("a file of weights computes nothing, so it cannot resize", where="--resize",
                         fix="--format onnx, pt2 or pte")
    extra = {"onnx": "onnx", "pte": "executorch"}.get(choice.format)
    for package in _EXTRAS.get(choice.format, ()):
        if find_spec(package) is None:
            raise ModelError(f"a .{choice.format} file needs {package}: pip install 'tutelage[{extra}]'")


def weights_bytes(student: Student) -> bytes:
    """A safetensors file as a run's own: the names of the plain network, and metadata that rebuild it."""
    tensors = weights_of(student.network)
    told = metadata_of(student.network, student.classes, student.node)
    if student.task != CLASSIFICATION.name:
        told["task"] = student.task
    told |= {"preprocessing": json.dumps(student.prepared.as_json()), "sha256": files.fingerprint(tensors),
             ABOUT: about_text(student, Choice("safetensors"))}
    return files.pack(tensors, told)


def program(student: Student, choice: Choice) -> ExportedProgram:
    """The graph of the student with any number of rows, of any height and width if it resizes, of series of any length.

    Of series for ONNX, recurrent layers are operations of their own.
    """
    if isinstance(student.prepared, SeriesScaling):
        require_exportable(student, choice)
        network = whole_units(student.network) if choice.format == "onnx" else student.network
        made = _graph(ShippedSeries(network), student, choice)
    elif student.forecasts:
        network = whole_units(student.network) if choice.format == "onnx" else student.network
        made = _graph(ShippedNumbers(network, len(student.classes)), student, choice)
    elif isinstance(student.prepared, TextPreparation):
        made = _graph(ShippedText(student.network), student, choice)
    elif student.detects and choice.format == "onnx":
        made = _graph(ShippedBoxes(student), student, choice)
    else:
        made = _graph(Shipped(student, choice.resize), student, choice)
    held = sum({parameter.data_ptr(): parameter.numel() for parameter in made.parameters()}.values())  # tied ones once
    if held != student.parameters:
        raise ModelError("the exported graph has another number of parameters", where=f"network {student.node!r}",
                         found=held, expected=student.parameters, fix="--format safetensors")
    return made


def torch_export(student: Student, choice: Choice) -> bytes:
    """A .pt2 archive of torch.export."""
    made = program(student, choice)
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(made, buffer, extra_files={f"{ABOUT}.json": about_text(student, choice)})
    return buffer.getvalue()


def onnx_model(student: Student, choice: Choice) -> Any:
    """An `onnx.ModelProto`, its norms folded into its convolutions; that of a detector does not suppress yet."""
    plain = FUSED if student.fuses else "forecast" if student.forecasts else "logits"
    outputs = [PLACED, SCORED] if student.detects else [plain]
    return _onnx(program(student, choice), student.node, input_names(student), *outputs)


def onnx_preparation(student: Student) -> Any:
    """An `onnx.ModelProto` of `Prepare` alone, from "images" to "squares"."""
    made = _graph(Prepare(student.images), student, Choice("onnx", resize=True))
    return _onnx(made, student.node, ["images"], "squares")


def onnx_bytes(model: Any, student: Student, choice: Choice) -> bytes:
    """An .onnx file in one piece: it has no data in other files. Boxes are suppressed in it."""
    if student.detects:
        append_suppression(model)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = ABOUT, about_text(student, choice)
    if model.ByteSize() > LARGEST_ONNX:
        raise ModelError("this network is too large for one .onnx file", where=f"network {student.node!r}",
                         found=f"{model.ByteSize()} bytes", expected=f"{LARGEST_ONNX} at most", fix="--format pt2")
    return model.SerializeToString()


def executorch(student: Student, choice: Choice) -> bytes:
    """A .pte file for the XNNPACK kernels of ExecuTorch."""
    made = program(student, choice)
    with _quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            lowered = to_edge_transform_and_lower(made, partitioner=[XnnpackPartitioner()],
                                                  constant_methods={ABOUT: about_text(student, choice)})
            return bytes(lowered.to_executorch().buffer)
        except Exception as problem:
            raise _unsupported(made, problem, student.node, "executorch") from problem


def _graph(module: nn.Module, student: Student, choice: Choice) -> ExportedProgram:
    if isinstance(student.prepared, TextPreparation):
        given, axes = followed_text(student.prepared, choice.format == "pte")
    else:
        given, axes = (_series if isinstance(student.prepared, SeriesScaling) else
                       _images if student.takes_values is None else _values)(student, choice)
    with _quiet(), torch.no_grad():
        try:
            return torch.export.export(module.eval(), given, dynamic_shapes=axes)
        except Exception as problem:
            raise ModelError("this network cannot be exported: its graph cannot be read",
                             where=f"network {student.node!r}", found=_first_line(problem),
                             fix="--format safetensors, or a network without control flow that depends on numbers"
                             ) from problem


def _images(student: Student, choice: Choice) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Images to follow through the network, and the axes of them that may have any length."""
    channels, height, width = student.images.shape
    axes = {0: _batch(choice)}
    if choice.resize or student.fuses:
        height, width = height + 5, width + 3  # sides that nothing else has, so that none is taken for a constant
        axes |= {axis: Dim(name, min=1, max=LARGEST_SIDE) if choice.format == "pte" else Dim(name)
                 for axis, name in ((2, "height"), (3, "width"))}
    return (torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0)),), (axes,)


def _series(student: Student, choice: Choice) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """As `_images`, of series: values and, where the network has it, their mask."""
    assert isinstance(student.prepared, SeriesScaling), "asked for by _graph"
    how, length = student.prepared, student.prepared.length + 5  # which nothing else has, as above
    batch, steps = _batch(choice), Dim("length", min=1, max=2 * length) if choice.format == "pte" else Dim("length")
    values = torch.rand(2, how.channels, length, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(length) < torch.tensor([[length], [max(1, length // 2)]])
    given, axes = (values, mask), ({0: batch, 2: steps}, {0: batch, 1: steps})
    return (given, axes) if how.masked else (given[:1], axes[:1])


def _values(student: Student, choice: Choice) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """As `_images`, of windows and of rows of a table, which have one shape."""
    assert student.takes_values is not None, "asked for by _graph"
    values = torch.rand(2, *student.takes_values, generator=torch.Generator().manual_seed(0))
    return (values,), ({0: _batch(choice)},)


def _batch(choice: Choice) -> Any:
    return Dim("batch", min=1, max=LARGEST_BATCH) if choice.format == "pte" else Dim("batch")


def _onnx(made: ExportedProgram, node: str, inputs: list[str], *outputs: str) -> Any:
    with _quiet():
        try:
            converted = torch.onnx.export(made, (), dynamo=True, input_names=inputs, output_names=list(outputs),
                                          verbose=False, custom_translation_table=translations(made))
        except Exception as problem:
            raise _unsupported(made, problem, node, "onnx") from problem
    assert converted is not None, "dynamo=True gives a program"
    model = converted.model_proto  # made anew each time that it is asked for
    _forget_sources(model)
    return model


def _unsupported(made: ExportedProgram, problem: BaseException, node: str, to: str) -> ModelError:
    """Name the operator and its layer, where the exporter's words name an operator of the graph."""
    words, deepest = str(problem), problem
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
        words += f"\n{deepest}"
    for call in made.graph.nodes:
        if call.op == "call_function" and str(call.target) in words:
            layers = [path for path, _ in call.meta.get("nn_module_stack", {}).values()]
            layer = layers[-1].removeprefix("network.").removeprefix("body.") if layers else ""
            return ModelError(f"{to} has no operator for {call.target}", where=f"network {node!r}, layer {layer!r}",
                              found=_first_line(deepest), fix="--format pt2, or a network without this operator")
    return ModelError(f"{to} cannot take this network", where=f"network {node!r}", found=_first_line(deepest),
                      fix="--format pt2")


def _forget_sources(model: Any) -> None:
    """Take out what names folders of this machine."""
    for graph in [model.graph, *model.functions]:
        for part in [graph, *graph.node, *graph.value_info, *graph.input, *graph.output]:
            part.doc_string = ""
            del part.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]


def _first_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0]}"[:300] if lines else type(problem).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of their own insides; what they made is judged by running it."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
