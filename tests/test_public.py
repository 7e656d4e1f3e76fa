"""What a user may import, by name."""

import inspect
from importlib import import_module

import pytest

import tutelage
from every import every

PUBLIC = ["Batch", "Computed", "Controller", "Edge", "Ema", "Ensemble", "Frozen", "Graph", "Trained", "edge_loss",
          "evaluate", "forward", "load", "losses", "train"]
PAGES_AT_THE_FRONT = ["divergences", "fused_images", "gaussians", "sample_weights", "schedules"]
PAGES = {
    "graph.divergences": {"cross_entropy", "kl", "reverse_kl", "js", "mse", "alpha_beta", "plackett_luce"},
    "graph.sample_weights": {"entropy", "confidence", "margin", "correct", "mean_one", "discrepancy", "true_class"},
    "graph.schedules": {"constant", "linear", "cosine", "ramp_up", "ramp_up_exp", "ramp_down", "window"},
    "graph.modules": {"Projected", "Table", "mean_probability", "pooled"},
}


def defined(page: str) -> dict[str, object]:
    module = import_module(f"tutelage.{page}")
    return {name: thing for name, thing in vars(module).items()
            if callable(thing) and getattr(thing, "__module__", "") == module.__name__ and not name.startswith("_")}


def test_the_public_names_are_these_and_sorted():
    assert sorted(PUBLIC) == PUBLIC
    assert tutelage.__all__ == sorted([*PUBLIC, *PAGES_AT_THE_FRONT])


@pytest.mark.parametrize("page", PAGES_AT_THE_FRONT)
def test_the_pages_that_a_method_is_written_with_are_at_the_front(page):
    assert getattr(tutelage, page) is import_module(f"tutelage.graph.{page}")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_explained(name):
    thing = getattr(tutelage, name)
    assert callable(thing)
    assert thing.__name__ == name
    assert inspect.getdoc(thing)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'tutelage' has no attribute 'teach'"):
        _ = tutelage.teach


def test_dir_shows_the_public_names():
    assert set(PUBLIC) <= set(dir(tutelage))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_at_least_its_names_each_explained(page):
    assert PAGES[page] <= set(defined(page))
    assert every(inspect.getdoc(thing) for thing in defined(page).values())


@pytest.mark.parametrize("page", ["graph.divergences", "graph.sample_weights"])
def test_every_function_of_a_sample_has_the_one_signature(page):
    for name, function in defined(page).items():
        parameters = list(inspect.signature(function).parameters.values())
        assert [p.name for p in parameters[:3]] == ["student", "teacher", "labels"], name
        assert {p.kind for p in parameters[3:]} <= {inspect.Parameter.KEYWORD_ONLY}, name  # some have no options


def test_every_schedule_takes_progress_and_options_by_name():
    for name, function in defined("graph.schedules").items():
        first, *options = inspect.signature(function).parameters.values()
        assert first.name == "progress", name
        assert every(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in options), name


@pytest.mark.parametrize("name", PUBLIC)
def test_no_public_name_hides_a_module(name):
    with pytest.raises(ModuleNotFoundError):
        import_module(f"tutelage.{name}")
