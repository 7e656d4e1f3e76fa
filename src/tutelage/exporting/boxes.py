"""Boxes out of an exported detector: suppression as part of an ONNX graph.

The graph of a network ends with the box of each place and its scores. What is appended are operations of ONNX alone:
NonMaxSuppression, class by class; then the best of each image. So any runtime gives boxes, for any number of images.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tutelage.models.dense_boxes import LEAD
from tutelage.tasks.detection.predicted import (
    LEAST_SCORE,
    MOST_BOXES,
    MOST_CANDIDATES,
    MOST_OVERLAP,
    NOTHING,
    scored_boxes,
)

PLACED, SCORED = "placed", "scored"
"""The outputs of a network before suppression is appended."""
OUTPUTS = ("boxes", "scores", "classes")


def about_outputs(classes: int, suppressed: bool) -> dict[str, object]:
    """What a file says of the boxes that it gives, or of what there is before suppression."""
    if not suppressed:
        return {"output": {"name": "packed", "shape": ["batch", "places", LEAD + classes], "type": "float32"},
                "suppression": None}
    return {"outputs": {"boxes": {"shape": ["batch", MOST_BOXES, 4], "type": "float32",
                                  "holds": "left, top, right, lower in pixels of the input"},
                        "scores": {"shape": ["batch", MOST_BOXES], "type": "float32", "range": [0.0, 1.0]},
                        "classes": {"shape": ["batch", MOST_BOXES], "type": "int64", "none": NOTHING}},
            "suppression": {"least_score": LEAST_SCORE, "candidates": MOST_CANDIDATES, "overlap": MOST_OVERLAP}}


def best_placed(packed: Float[Tensor, "batch places columns"], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The box of each place [B, P, 4] and its scores [B, K, P]; the scores of what is no candidate are 0."""
    boxes, scores = scored_boxes(packed, size)
    lacking = MOST_BOXES - boxes.shape[1]
    if lacking > 0:  # so that the file always gives as many
        boxes, scores = nn.functional.pad(boxes, (0, 0, 0, lacking)), nn.functional.pad(scores, (0, lacking))
    if scores.shape[1] * scores.shape[2] > MOST_CANDIDATES:
        least = scores.flatten(1).topk(MOST_CANDIDATES, 1).values[:, -1]
        scores = scores * (scores >= least[:, None, None])
    return boxes, scores


def append_suppression(model: Any) -> None:
    """Give an `onnx.ModelProto` with the outputs PLACED and SCORED the outputs OUTPUTS instead."""
    from onnx import TensorProto, helper

    graph, kinds = model.graph, {"f": TensorProto.FLOAT, "i": TensorProto.INT64}

    def constant(name: str, kind: str, *values: float) -> str:
        alone = name.endswith("one")
        graph.initializer.append(helper.make_tensor(f"suppress/{name}", kinds[kind], [] if alone else [len(values)],
                                                    values))
        return f"suppress/{name}"

    def node(operation: str, *inputs: str, to: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(operation, list(inputs), [to], name=f"suppress/{operation}/{to}",
                                           **attributes))
        return to

    chosen = node("NonMaxSuppression", PLACED, SCORED, constant("most", "i", MOST_BOXES),
                  constant("overlap", "f", MOST_OVERLAP), constant("least", "f", LEAST_SCORE), to="suppress/chosen")
    sizes = node("Shape", SCORED, to="suppress/sizes")
    empty = node("ConstantOfShape", sizes, to="suppress/empty",
                 value=helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0]))
    kept = node("ScatterND", empty, chosen, node("GatherND", SCORED, chosen, to="suppress/said"), to="suppress/kept")
    flat = node("Reshape", kept, constant("rows", "i", 0, -1), to="suppress/flat")
    graph.node.append(helper.make_node("TopK", [flat, "suppress/most"], ["scores", "suppress/at"],
                                       name="suppress/TopK"))
    places = node("Gather", sizes, constant("axis_one", "i", 2), to="suppress/places")
    place = node("Unsqueeze", node("Mod", "suppress/at", places, to="suppress/place"), constant("last", "i", -1),
                 to="suppress/place_last")
    there = node("Greater", "scores", constant("zero_one", "f", 0.0), to="suppress/there")
    node("Where", there, node("Div", "suppress/at", places, to="suppress/class"),
         constant("nothing_one", "i", NOTHING), to="classes")
    node("Where", node("Unsqueeze", there, "suppress/last", to="suppress/there_last"),
         node("GatherND", PLACED, place, to="suppress/boxes", batch_dims=1), "suppress/zero_one", to="boxes")
    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    del graph.output[:]
    for name, kind, shape in (("boxes", "f", (batch, MOST_BOXES, 4)), ("scores", "f", (batch, MOST_BOXES)),
                              ("classes", "i", (batch, MOST_BOXES))):
        graph.output.append(helper.make_tensor_value_info(name, kinds[kind], shape))
