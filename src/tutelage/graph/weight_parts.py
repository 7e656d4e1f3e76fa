"""What a sample weight is made of: the functions within it that the teacher alone decides, and entropy's options."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tutelage.graph.naming import unbound
from tutelage.graph.sample_weights import ENTROPY_OPTIONS, FROM_TOP, OF_TEACHER_ALONE, entropy, mean_one
from tutelage.types import PerSampleFn


def parts_of_teacher(weight: PerSampleFn | str | None) -> list[PerSampleFn] | None:
    """The functions within a sample weight that the teacher alone decides; None if it needs all of the teacher.

    >>> from tutelage.graph.sample_weights import discrepancy, margin
    >>> parts_of_teacher(partial(mean_one, of=margin)) == [margin], parts_of_teacher(discrepancy)
    (True, None)
    """
    if weight is None or isinstance(weight, str) or unbound(weight) in FROM_TOP:
        return []
    if isinstance(weight, partial) and unbound(weight) is mean_one:
        return parts_of_teacher(weight.keywords.get("of"))
    return [weight] if unbound(weight) in OF_TEACHER_ALONE else None


def with_parts(weight: Any, replace: Callable[[PerSampleFn], PerSampleFn]) -> Any:
    """The same sample weight, with `replace` of each of its `parts_of_teacher` in their place."""
    if unbound(weight) is mean_one:
        return partial(mean_one, **{**weight.keywords, "of": with_parts(weight.keywords["of"], replace)})
    return replace(weight) if unbound(weight) in OF_TEACHER_ALONE else weight


def entropy_options(weight: object) -> dict[str, float] | None:
    """The options of the entropy weight in a sample weight or in what is bound to one; None if there is none.

    >>> entropy_options(partial(mean_one, of=partial(entropy, temperature=2.0)))
    {'temperature': 2.0, 'power': 1.0}
    """
    if unbound(weight) is entropy:
        own = weight.keywords if isinstance(weight, partial) else {}
        return {**ENTROPY_OPTIONS, **own}
    inside = [*weight.args, *weight.keywords.values()] if isinstance(weight, partial) else []
    return next((found for part in inside if (found := entropy_options(part)) is not None), None)
