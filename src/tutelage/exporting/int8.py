"""ONNX -> ONNX whose weights and activations are 8 bits wide: static quantisation with data of the training split.

Quantisation comes after the export to ONNX; a quantised torch network is not a safe thing to export. Weights have a
scale for each output channel, activations one for each tensor, from the least and the largest number that the
calibration images bring there (QDQ form, S8S8, the default of onnxruntime).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tutelage.errors import ModelError

CALIBRATION_IMAGES = 256
BATCH = 16
LEAST_SHARE = 0.9
"""Of the weights' numbers that must have become 8 bits wide."""
OF_DETECTORS = ("Conv", "Gemm", "MatMul")
"""What becomes 8 bits wide in a detector: 256 steps are too few for the pixels of a box."""


class Calibration:
    """Batches of images or series in the form that onnxruntime asks for them."""

    def __init__(self, given: Mapping[str, np.ndarray]) -> None:
        rows = len(next(iter(given.values())))
        self._batches: Iterator[dict[str, np.ndarray]] = iter(
            [{name: array[i : i + BATCH] for name, array in given.items()} for i in range(0, rows, BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None after the last."""
        return next(self._batches, None)


def quantised(model: Any, given: Mapping[str, np.ndarray], where: str, only: Sequence[str] = ()) -> Any:
    """The `onnx.ModelProto` with 8-bit numbers; `given` are its inputs by name, [N, ...], prepared as for the network.

    Those of images are [N, C, H, W] in [0, 1]. `only` names operations, where others are to keep their full width.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises steps that torch's exporter has already taken
    try:
        with TemporaryDirectory(prefix="tutelage-") as folder:
            place = Path(folder) / "int8.onnx"
            reader: Any = Calibration(given)  # onnxruntime asks for get_next and for no more
            quantize_static(model, place, reader, quant_format=QuantFormat.QDQ, per_channel=True,
                            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                            op_types_to_quantize=list(only) or None)
            made = onnx.load(place)
    finally:
        logging.disable(before)
    _require_narrow(made, where)
    return made


def with_preparation(preparation: Any, model: Any) -> Any:
    """The two models as one: the preparation keeps its full width, for pixels must stay what they are."""
    from onnx import compose

    first = compose.add_prefix(preparation, "prepare/", rename_inputs=False)
    second = compose.add_prefix(model, "network/", rename_outputs=False)
    return compose.merge_models(first, second, io_map=[("prepare/squares", "network/images")])


def _require_narrow(model: Any, where: str) -> None:
    import onnx

    numbers = {tensor.name: (int(np.prod(tensor.dims)), tensor.data_type) for tensor in model.graph.initializer}
    narrow = sum(n for n, kind in numbers.values() if kind in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8))
    share = narrow / max(1, sum(n for n, _ in numbers.values()))
    if share < LEAST_SHARE:
        raise ModelError("the quantiser left weights of this network as they were", where=where,
                         found=f"{share:.0%} of its numbers are 8 bits wide", expected=f"{LEAST_SHARE:.0%} at least",
                         fix="export it without --int8")
