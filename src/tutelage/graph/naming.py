"""What functions, modules and kinds of node are called, for names of losses, tables and messages."""

from functools import partial

from tutelage.graph.nodes import Computed, Ema, Frozen, Trained


def unbound(function: object) -> object:
    """The function or module behind any `functools.partial`."""
    while isinstance(function, partial):
        function = function.func
    return function


def name_of(function: object) -> str:
    """What a function, a partial of one, or a module is called."""
    function = unbound(function)
    return str(getattr(function, "__name__", type(function).__name__))


def describe(function: object) -> str:
    """A function and the options bound to it, a kind of node, or the name of an end, for a person to read."""
    if function is None or isinstance(function, str):
        return str(function)
    if isinstance(function, Trained | Frozen):
        return name_of(function).lower() + (f", {function.before} of the run before" if function.before else "")
    if isinstance(function, Ema) and not function.every:
        return f"copy of {function.of}"
    if isinstance(function, Ema):
        return f"ema of {function.of}, decay {function.decay:g}" + (f", every {function.every}" * (function.every > 1))
    if isinstance(function, Computed):
        rows = "" if function.rows is None else f" [{name_of(function.rows)}]"
        return f"{describe(function.by)} of {', '.join(function.of)}{rows}"
    options = []
    while isinstance(function, partial):
        options += [describe(x) if callable(x) else repr(x) for x in function.args]
        options += [f"{k}={describe(v) if callable(v) else repr(v)}" for k, v in function.keywords.items()]
        function = function.func
    return name_of(function) + (f"({', '.join(options)})" if options else "")
