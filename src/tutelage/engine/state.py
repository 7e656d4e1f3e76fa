"""What a run has learned and remembers, taken out to be saved and put back."""

from collections.abc import Mapping

from tutelage.engine.run import Run
from tutelage.errors import ModelError
from tutelage.graph.nodes import Ema, Trained
from tutelage.models.network import body_of, weights_of
from tutelage.runs import checkpoint
from tutelage.runs.checkpoint import State
from tutelage.runs.folder import read_scores


def capture(run: Run) -> State:
    """All that a run has learned and remembers, by file. (A node's name has no dot, so the others' names do.)"""
    state: State = {node: weights_of(run.models[node]) for node in learned(run)}
    state["run.parts"] = checkpoint.named_state(run.graph.parts())
    state["run.controllers"] = checkpoint.named_state(run.graph.controllers)
    state["run.optimizers"] = checkpoint.optimizer_state(run.optimizers, run.learners)
    state["run.losses"] = run.means.state()
    return state | {f"best.{node}": held["tensors"] for node, held in run.best.items()}


def restore(run: Run, manifest: Mapping, state: State) -> None:
    """Put a run back to where `capture` took it."""
    if manifest["frozen"] != run.frozen:
        changed = sorted(node for node in run.frozen if run.frozen[node] != manifest["frozen"].get(node))
        raise ModelError("this run was started with another teacher", where=f"nodes {changed}",
                         found="weights with another SHA-256", fix="give the weights the run was started with")
    for node in learned(run):
        checkpoint.load_strictly(body_of(run.models[node]), state[node], node)
    checkpoint.load_named(run.graph.parts(), state["run.parts"], "part")
    checkpoint.load_named(run.graph.controllers, state["run.controllers"], "controller")
    checkpoint.load_optimizers(run.optimizers, run.learners, state["run.optimizers"])
    run.means.load(state["run.losses"])
    run.best = {node: {**held, "tensors": state[f"best.{node}"]} for node, held in manifest["best"].items()}
    run.step, run.scores = manifest["step"], read_scores(manifest["scores"])
    run.marks = dict(manifest.get("marks", {}))


def learned(run: Run) -> list[str]:
    """The nodes that a run changes: trained and moving-average networks."""
    return [*run.graph.named(Trained), *run.graph.named(Ema)]
