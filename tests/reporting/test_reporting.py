"""The report: its numbers are the records', hostile names stay names, and nothing breaks it."""

import contextlib
import csv
import io
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

import report_toys as toys
from every import every
from tutelage.cli.main import app
from tutelage.errors import ModelError, UsageError
from tutelage.recipes.recipe import graph_of, read_recipe
from tutelage.reporting.build import make_document
from tutelage.reporting.charts import Point, label
from tutelage.reporting.formatting import shown_text
from tutelage.reporting.graph_model import diagram_of
from tutelage.reporting.graph_svg import draw_graph
from tutelage.reporting.groups import group_runs, member_of
from tutelage.reporting.html import as_html, data_block
from tutelage.reporting.markdown_csv_json import as_csv, document_as_json, document_as_markdown
from tutelage.reporting.run_folder import read_run
from tutelage.reporting.sections.overview import front_of
from tutelage.reporting.sections.training import shares_of
from tutelage.reporting.write import write_report
from tutelage.runs.evaluations import evaluation_of, write_evaluation
from tutelage.runs.folder import read_records

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><b>", "javascript:alert(1)",
           "a\u2028b", "]]>", "<svg onload=alert(1)>", '<a href="https://example.com">x</a>', "🦊", "", " ", "=1+1",
           "{{7*7}}", "\x1b]52;c;x\x07", "\u202egnp", "x" * 10_000, "</style><style>*{display:none}", "&lt;i&gt;",
           "| a | `b` [c](d)")


class Reader(HTMLParser):
    """The elements of a page, its attributes, its text outside scripts, and the figures' data."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements, self.attributes = Counter[str](), Counter[str]()
        self.values, self.figures, self.links, self.open = list[str](), "", list[str](), list[str]()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements[tag] += 1
        self.attributes.update(f"{tag} {name}" for name, _ in attrs)
        if tag == "data":
            self.values.append(dict(attrs)["value"])
        self.links += [value for name, value in attrs if name in ("href", "src")]
        self.open.append(tag if tag != "script" or dict(attrs).get("id") != "figures" else "figures")

    def handle_data(self, data):
        if self.open and self.open[-1] == "figures":
            self.figures += data

    def handle_endtag(self, tag):
        if self.open[-1:] == ["figures"]:
            self.open.append("")


def page_of(*folders: Path) -> str:
    return as_html(make_document(folders))


def seen(page: str) -> str:
    """A page without its scripts."""
    return page.partition("<script")[0]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A run with all that can be measured of it."""
    folder = toys.run(tmp_path / "whole")
    toys.evaluate(folder)
    toys.cost(folder)
    return folder


# -- numbers ---------------------------------------------------------------------------------------------------------

def test_every_number_of_the_log_is_in_every_format_and_none_is_changed(whole):
    document = make_document([whole])
    logged = [record for record in read_records(whole) if record["event"] == "epoch"]
    wanted = {repr(number) for record in logged
              for number in toys.numbers([record["losses"], record["metrics"]["nodes"]])}
    cells = {row["value"] for row in csv.DictReader(io.StringIO(as_csv(document)))}
    raw = {repr(number) for number in toys.numbers(json.loads(document_as_json(document)))}
    assert wanted <= cells
    assert wanted <= raw
    assert wanted <= set(Reader(as_html(document)).values)


def test_the_numbers_of_evaluation_and_cost_are_there_too(whole):
    metrics, cost = (json.loads((whole / "evaluation" / name).read_text()) for name in
                     ("test/metrics.json", "cost/cost.json"))
    scores = [{key: value for key, value in node.items() if key != "confusion"} for node in metrics["nodes"].values()]
    latency = [time[key] for node in cost["nodes"].values() for time in node["latency"].values()
               for key in ("median_ms", "low_ms", "high_ms", "images_per_second")]
    trust = metrics["uncertainty"]
    wanted = [*toys.numbers(scores), *toys.numbers(metrics["pairs"]), *latency, *toys.numbers(trust["deciles"]),
              *trust["per_class"], trust["mean"], trust["mean_right"], trust["mean_wrong"], trust["auroc"]]
    assert {repr(number) for number in wanted} <= set(Reader(page_of(whole)).values)


def test_a_page_holds_no_measurement_that_no_record_has(whole):
    """Of one run nothing is averaged: shares of losses, and whole numbers, are all that is computed."""
    found = list(read_records(whole))
    found += [json.loads((whole / "evaluation" / name).read_text()) for name in ("test/metrics.json", "cost/cost.json")]
    known = {repr(number) for number in toys.numbers(found)}
    group = group_runs([member_of(read_run(whole))])[0]
    known |= {repr(share.share) for share in shares_of(group)}
    known |= {repr(sum(epoch["seconds"] for epoch in group.members[0].run.epochs))}
    for value in Reader(page_of(whole)).values:
        assert value in known or re.fullmatch(r"\d+", value), value


def test_charts_draw_the_numbers_of_the_log(whole):
    figures = json.loads(Reader(page_of(whole)).figures)
    logged = [record for record in read_records(whole) if record["event"] == "epoch"]
    drawn = [trace["y"] for figure in figures for trace in figure["data"] if trace.get("name") == "resnet8"]
    assert [record["metrics"]["nodes"]["resnet8"]["top1"] for record in logged] in drawn
    assert [record["metrics"]["nodes"]["resnet8"]["nll"] for record in logged] in drawn


def test_the_shares_of_a_students_edges_add_up_to_one_and_are_their_losses_over_the_sum(whole):
    shares = shares_of(group_runs([member_of(read_run(whole))])[0])
    record = [record for record in read_records(whole) if record["event"] == "epoch"][1]
    own = [edge for edge in toys.EDGES if "->resnet8:" in edge]
    for edge in own:
        (share,) = [share.share for share in shares if share.link.name == edge and share.epoch == 2]
        assert share == record["losses"][edge] / sum(record["losses"][other] for other in own)
    sums: dict[tuple[int, str], float] = {}
    for share in shares:
        sums[share.epoch, share.link.learner] = sums.get((share.epoch, share.link.learner), 0.0) + (share.share or 0)
    assert every(total == pytest.approx(1) for total in sums.values())


def test_runs_that_differ_in_their_seed_are_one_group_with_mean_and_spread(tmp_path):
    runs = [toys.run(tmp_path / f"dual-{seed}", seed=seed) for seed in range(3)]
    (group,) = group_runs([member_of(read_run(run)) for run in runs])
    last = [[r for r in read_records(run) if r["event"] == "epoch"][-1]["metrics"]["nodes"]["resnet8"]["top1"]
            for run in runs]
    mean = sum(last) / 3
    assert group.name == "dual"
    assert group.mean("resnet8", "top1") == (pytest.approx(mean), pytest.approx(math.sqrt(
        sum((value - mean) ** 2 for value in last) / 2)))


def test_runs_of_unlike_recipes_are_unlike_groups_and_no_two_have_one_name(tmp_path):
    runs = [toys.run(tmp_path / f"{folder}" / "run", config=toys.RECIPE.format(seed=0) + f"lr = 0.{folder}\n")
            for folder in (1, 2)]
    page = page_of(*runs)
    assert ">run<" in page
    assert ">run′<" in page


def test_the_pareto_front_is_what_no_other_network_beats_in_both():
    places = [(1, 0.5), (2, 0.7), (2, 0.6), (3, 0.7), (4, 0.9), (5, 0.8)]
    points = [Point(str(i), "@1", x, y) for i, (x, y) in enumerate(places)]
    naive = [p for p in points if not any(q.x <= p.x and q.y >= p.y and (q.x, q.y) != (p.x, p.y) for q in points)]
    assert [p.name for p in front_of(points)] == [p.name for p in naive] == ["0", "1", "4"]


def test_a_study_shows_means_differences_and_what_may_be_said(tmp_path):
    (tmp_path / "study").mkdir()
    results = toys.study(tmp_path / "study")
    page = page_of(tmp_path / "study")
    wanted = [row["mean"] for row in results["rows"]]
    wanted += [d[key] for row in results["rows"] if (d := row["difference"]) for key in ("mean", "low", "high", "p")]
    assert {repr(number) for number in wanted} <= set(Reader(page).values)
    assert "better than distill" in page
    assert "90.00 ± 0.20 (3)" in page


def test_the_gain_by_trust_is_the_difference_to_plain_distillation_on_the_same_images(tmp_path):
    plain = toys.RECIPE.format(seed=0).replace("peer_warmup = 0.3", 'uncertainty = false\npeers = "none"')
    runs = [toys.run(tmp_path / "plain", config=plain, edges=toys.EDGES[:4]), toys.run(tmp_path / "dual"),
            toys.run(tmp_path / "other", config=toys.RECIPE.format(seed=0) + "lr = 0.3\n")]
    for run, better, edge in zip(runs, (0.0, 0.125, 0.5), (0.0, 0.0, 0.001), strict=True):
        toys.evaluate(run)
        whole = evaluation_of(run, "test")
        deciles = whole.metrics["uncertainty"]["deciles"]
        deciles["edges"][0] += edge  # other images, or another teacher: not to be compared
        deciles["accuracy"] = {"resnet8": [0.5 + better] * 10, "mobilenetv2": [0.25] * 9 + [None]}
        write_evaluation(run, whole)
    tables = json.loads(document_as_json(make_document(runs)))["tables"]
    (rows,) = [table["rows"] for table in tables if table["table"] == "Gain over plain by tenth of w"]
    assert rows == [["dual", "resnet8", i, 0.125] for i in range(1, 11)] + [
        ["dual", "mobilenetv2", i, 0.0 if i < 10 else None] for i in range(1, 11)]


def test_a_method_of_two_recipes_is_two_groups_and_many_groups_are_folded(tmp_path):
    (tmp_path / "study").mkdir()
    results = toys.study(tmp_path / "study", ("distill", "dual_student", "third"))
    page = page_of(tmp_path / "study")
    assert page.count('<details class="group">') == 0
    one = "[data]\nname = 'digits'\n[models.net]\narch = 'resnet8'\n[method]\nname = 'scratch'\nstudent = 'net'\n"
    toys.run(tmp_path / "study/runs/other", config=one, nodes=["net"], edges=["labels->net:cross_entropy"])
    results["cells"].append({**results["cells"][0], "recipe": "other.toml", "run": "runs/other"})
    (tmp_path / "study/results.json").write_text(json.dumps(results))
    page = page_of(tmp_path / "study")
    assert page.count('<details class="group">') == 4
    assert ">distill, r.toml</h2>" in page
    assert ">distill, other.toml</h2>" in page
    results["cells"][-1]["recipe"] = "r.toml"
    (tmp_path / "study/results.json").write_text(json.dumps(results))
    with pytest.raises(ModelError, match="unlike graphs"):
        page_of(tmp_path / "study")


def test_the_cost_of_a_network_holds_for_other_runs_of_it_on_the_same_data_alone(tmp_path):
    other = toys.RECIPE.format(seed=0)
    runs = [toys.run(tmp_path / "measured"), toys.run(tmp_path / "alike", config=other + "lr = 0.3\n"),
            toys.run(tmp_path / "unlike", config=other.replace("digits", "cifar10") + "lr = 0.3\n")]
    toys.cost(runs[0])
    tables = json.loads(document_as_json(make_document(runs)))["tables"]
    (table,) = [table for table in tables if table["table"] == "All networks"]
    place = table["columns"].index("parameters")
    found = {(row[0], row[1]): row[place] for row in table["rows"]}
    assert found["alike", "resnet8"] == found["measured", "resnet8"] == 600_000
    assert found["unlike", "resnet8"] is None


# -- the graph -------------------------------------------------------------------------------------------------------

RECIPES = [path for path in sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"), key=str)
           if "[study]" not in path.read_text() and path.parent.name != "search"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_diagram_of_a_recipe_has_the_graphs_own_nodes_and_edges(recipe):
    graph = graph_of(read_recipe(recipe))
    diagram = diagram_of(recipe.read_text(), recipe)
    assert [node.name for node in diagram.nodes] == list(graph.nodes)
    assert [link.name for link in diagram.links] == [edge.name for edge in graph.edges]


def test_the_diagram_of_a_python_run_is_read_from_the_table_it_wrote(tmp_path):
    import toys as engine

    graph = engine.everything()
    config = f"[python]\ngraph = '''\n{graph}\n'''\nseed = 1\n[python.models]\n\"a\" = \"Sequential, 5 parameters\"\n"
    diagram = diagram_of(config, tmp_path)
    assert {node.name: node.kind for node in diagram.nodes} == {
        "t": "frozen", "a": "trained", "b": "trained", "slow": "ema", "stale": "ema", "gate": "computed"}
    assert [link.name for link in diagram.links] == [edge.name for edge in graph.edges]
    assert {link.sample_weight for link in diagram.links} == {"", "gate.w"}
    assert [node.of for node in diagram.nodes][-1] == ("a", "b")


def test_a_drawing_has_every_node_and_an_arrow_for_every_edge(whole):
    diagram = read_run(whole).diagram
    svg = str(draw_graph(diagram, {}).svg)
    assert svg.count('class="edge') == svg.count('class="head') == len(diagram.links) == 6
    assert every(f">{name}<" in svg for name in ("labels", "teacher", *toys.STUDENTS))
    assert svg.count("<title>") == 6


# -- hostile names ---------------------------------------------------------------------------------------------------

def test_hostile_names_add_no_element_no_attribute_and_no_link(tmp_path):
    pages = []
    for kind, classes in (("plain", [f"class {i}" for i in range(len(HOSTILE))]), ("hostile", HOSTILE)):
        folder = toys.run(tmp_path / kind / ("run" if kind == "plain" else '"><img src=x onerror=alert(1)>'))
        toys.evaluate(folder, classes)
        versions = json.loads((folder / "versions.json").read_text())
        versions["command"] = "tutelage" if kind == "plain" else "</script><script>alert(1)</script>"
        (folder / "versions.json").write_text(json.dumps(versions))
        pages.append(Reader(page_of(folder)))
    plain, hostile = pages
    assert hostile.elements == plain.elements
    assert hostile.attributes == plain.attributes
    assert [link for link in hostile.links if not link.startswith(("#", "data:"))] == []


def test_a_page_runs_only_its_two_scripts_and_fetches_nothing(whole):
    page = page_of(whole)
    reader = Reader(page)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    assert reader.elements["script"] == 3
    assert not [name for name in reader.attributes if name.split()[1].startswith("on") or name == "script src"]
    assert not {"link src", "iframe src", "form action", "base href"} & set(reader.attributes)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_in_a_chart_is_no_markup_of_plotlys(name):
    assert not re.search(r"<(a|b|i|br|span|sup|sub|em|script|img|svg)\b", label(name))
    assert len(label(name)) < 300


@pytest.mark.parametrize("name", [*HOSTILE, "\ud800"])
def test_a_name_that_is_shown_can_be_seen_and_written(name):
    assert shown_text(name).strip()
    assert len(shown_text(name)) < 400
    assert shown_text(name).encode().decode().isprintable() or "🦊" in name


@pytest.mark.parametrize("name", HOSTILE)
def test_the_data_block_ends_where_it_ends(name):
    text = data_block([name])
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == [name]


def test_markdown_and_csv_neither_run_nor_break(tmp_path):
    folder = toys.run(tmp_path / "run")
    toys.evaluate(folder, HOSTILE)
    document = make_document([folder])
    text = document_as_markdown(document)
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    widths = Counter(len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| class"))
    rows = list(csv.reader(io.StringIO(as_csv(document))))
    assert widths
    assert {len(row) for row in rows} == {6}
    for row in rows[1:]:
        for cell in row:
            assert not cell.startswith(("=", "+", "-", "@")) or _is_number(cell), cell
    assert "'=1+1" in {row[-1] for row in rows}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# -- bad input -------------------------------------------------------------------------------------------------------

def test_zero_epochs_and_an_unfinished_run_are_told_as_such(tmp_path):
    assert "No epoch has finished yet" in page_of(toys.run(tmp_path / "none", epochs=0))
    assert "Not finished: half" in page_of(toys.run(tmp_path / "half", finished=False))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e300])
def test_a_number_that_is_none_is_told_in_words_and_leaves_a_gap(tmp_path, number):
    folder = toys.run(tmp_path / "run", broken=number)
    page = page_of(folder, toys.run(tmp_path / "run-1", broken=number, seed=1))
    json.loads(Reader(page).figures, parse_constant=lambda word: pytest.fail(word))
    assert ("not a number" in seen(page)) == math.isnan(number)
    json.loads(document_as_json(make_document([folder])), parse_constant=lambda word: pytest.fail(word))


def test_one_student_and_fifty_students(tmp_path):
    config, nodes, edges = toys.peers(50)
    fifty = page_of(toys.run(tmp_path / "fifty", config=config, nodes=nodes, edges=edges, epochs=5))
    assert len(fifty) < 8_000_000
    assert "networks are not drawn" in fifty
    one = "[data]\nname = 'digits'\n[models.net]\narch = 'resnet8'\n[method]\nname = 'scratch'\nstudent = 'net'\n"
    assert "learns from" in page_of(toys.run(tmp_path / "one", config=one, nodes=["net"],
                                             edges=["labels->net:cross_entropy"]))


@pytest.mark.parametrize("classes", [1000, 10_000])
def test_a_thousand_classes_fit_in_twenty_megabytes(tmp_path, classes):
    folder = toys.run(tmp_path / "run")
    metrics = toys.evaluate(folder, [f"class number {i} of many" for i in range(classes)])
    document = make_document([folder])
    assert len(as_html(document).encode()) < 20_000_000
    tables = json.loads(document_as_json(document))["tables"]
    (rows,) = [table["rows"] for table in tables if table["table"] == "Accuracy by class"]
    assert [row[1] for row in rows] == metrics["nodes"]["teacher"]["per_class"]


def test_pictures_are_taken_in_until_there_is_no_more_room_and_only_if_they_are_pngs(tmp_path):
    runs = [toys.run(tmp_path / f"run-{i}", config=toys.RECIPE.format(seed=0) + f"lr = 0.{i + 1}\n") for i in range(3)]
    for run, picture in zip(runs, (toys.png(), b"<svg onload=alert(1)>", toys.png() + bytes(300_000)), strict=True):
        toys.evaluate(run, picture=picture)
    assert [seen(page_of(run)).count("data:image/png") for run in runs] == [6, 0, 0]


def damage(folder: Path, name: str, text: str | bytes) -> None:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


DAMAGE = {
    "a log that is not JSON": ("records.jsonl", b"\xff\x00\n{}\n"),
    "a log of lists": ("records.jsonl", "[1]\n[2]\n"),
    "a log without losses": ("records.jsonl", '{"event": "epoch", "step": 1, "epoch": 1}\n'),
    "a loss that is a word": ("records.jsonl", json.dumps(
        {"event": "epoch", "step": 1, "epoch": 1, "losses": {toys.EDGES[0]: "2"}, "metrics": {}, "learning_rate": {},
         "seconds": 1.0, "images_per_second": 1.0}) + "\n"),
    "an epoch that is missing": ("records.jsonl", json.dumps(
        {"event": "epoch", "step": 1, "epoch": 2, "losses": {}, "metrics": {}, "learning_rate": {}, "seconds": 1.0,
         "images_per_second": 1.0}) + "\n"),
    "an edge of another run": ("records.jsonl", json.dumps(
        {"event": "epoch", "step": 1, "epoch": 1, "losses": {"a->b:kl": 1.0}, "metrics": {}, "learning_rate": {},
         "seconds": 1.0, "images_per_second": 1.0}) + "\n"),
    "a deep log": ("records.jsonl", "[" * 100_000 + "\n{}\n"),
    "an empty log of a finished run": ("records.jsonl", ""),
    "FINISHED with other numbers": ("FINISHED", '{"step": 30, "metrics": {"resnet8": {"top1": 1.0}}, "weights": {}}'),
    "a configuration that is not TOML": ("config.toml", "]["),
    "a configuration that is not text": ("config.toml", b"\xff\xfe"),
    "a foreign configuration": ("config.toml", "[tool.poetry]\nname = 'x'\n"),
    "a configuration of Python without a graph": ("config.toml", "[python]\nseed = 1\n"),
    "a configuration of Python with a picture": ("config.toml", "[python]\ngraph = '<img>'\n"),
    "a configuration of Python with an edge to nowhere": (
        "config.toml", '[python]\ngraph = "a  trained\\n\\nlabels -> b  kl  T=1  x 1"\n'),
    "an identity of the future": ("run.json", '{"id": "x", "digest": "y", "format": 2}'),
    "an identity that is a list": ("run.json", "[]"),
    "versions that are none": ("versions.json", "null"),
    "an evaluation with a flipped byte": ("evaluation/test/metrics.json", "{}"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_folder_is_named_and_gives_no_report(whole, tmp_path, case):
    name, text = DAMAGE[case]
    if "epoch" in str(text) or case == "an edge of another run" or "log of lists" in case:
        (whole / "FINISHED").unlink()
    damage(whole, name, text)
    done = CliRunner().invoke(app, ["report", str(whole), "--to", str(tmp_path / "r.html")])
    assert isinstance(done.exception, ModelError), done.exception
    assert done.exception.exit_code == 4
    assert str(whole) in done.exception.block()
    assert not (tmp_path / "r.html").exists()


def test_every_byte_of_a_log_may_break_and_no_crash_follows(tmp_path):
    """Each cut and each flipped byte gives a report or a ModelError, and a report has only numbers of the log."""
    folder = toys.run(tmp_path / "run", epochs=1, finished=False)
    good, told = (folder / "records.jsonl").read_bytes(), 0
    for place in range(0, len(good), 29):
        for bad in (good[:place], good[:place] + bytes([good[place] ^ 5]) + good[place + 1 :]):
            damage(folder, "records.jsonl", bad)
            with contextlib.suppress(ModelError):
                shares = shares_of(group_runs([member_of(read_run(folder))])[0])
                losses = {share.loss for share in shares if share.loss is not None}
                assert [loss for loss in losses if repr(loss).encode() not in bad] == []
                told += len(losses)  # a log that is cut early has none
                make_document([folder])
    assert told > 0


@pytest.mark.parametrize(("change", "where"), [
    (lambda m: m["nodes"]["teacher"].update(top1="0.9"), "top1"),
    (lambda m: m["nodes"]["teacher"]["per_class"].pop(), "per_class"),
    (lambda m: m["nodes"]["teacher"]["confusion"][0].pop(), "confusion"),
    (lambda m: m["uncertainty"]["deciles"]["count"].pop(), "deciles"),
    (lambda m: m["uncertainty"]["most"][0].update(label=99), "uncertainty"),
    (lambda m: m.pop("rows"), "rows"),
], ids=["a word for a number", "a class too few", "a ragged confusion", "nine deciles",
        "no such class", "a missing key"])
def test_an_evaluation_that_is_not_one_is_named(tmp_path, monkeypatch, change, where):
    folder = toys.run(tmp_path / "run")
    toys.evaluate(folder)
    whole = evaluation_of(folder, "test")
    change(whole.metrics)
    write_evaluation(folder, whole)
    with pytest.raises(ModelError, match=where):
        make_document([folder])


def test_an_evaluation_without_a_teacher_has_no_page_on_trust(tmp_path):
    folder = toys.run(tmp_path / "run")
    toys.evaluate(folder)
    whole = evaluation_of(folder, "test")
    whole.metrics["uncertainty"] = None
    whole.metrics["nodes"]["teacher"]["temperature"] = None
    whole.metrics["nodes"]["teacher"]["ece"] = None
    write_evaluation(folder, whole)
    page = page_of(folder)
    assert "Trust in" not in page
    assert "Temperature scaling" in page


def test_neither_run_nor_study_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ModelError, match="neither a run folder nor a study"):
            make_document([folder])
    (tmp_path / "results.json").write_text('{"rows": []}')
    with pytest.raises(ModelError, match=r"results\.json"):
        make_document([tmp_path])


# -- the command -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "options", "start"), [
    ("r.html", [], "<!doctype html>"), ("r.md", [], "# whole"), ("r.csv", [], "section,part,table,row,column,value"),
    ("r.json", [], "{"), ("r.txt", ["--format", "md"], "# whole"), ("r", [], "<!doctype html>")])
def test_the_format_is_that_of_the_name_unless_said(whole, tmp_path, name, options, start):
    to = tmp_path / "new" / name
    done = CliRunner().invoke(app, ["report", str(whole), "--to", str(to), *options])
    assert done.exit_code == 0, done.output
    assert to.read_text().startswith(start)
    assert str(to.stat().st_size) in done.output


def test_a_file_that_is_there_is_kept_unless_forced(whole, tmp_path):
    to = tmp_path / "r.html"
    to.write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        write_report([whole], to)
    assert to.read_text() == "mine"
    write_report([whole], to, force=True)
    assert to.read_text() != "mine"
    with pytest.raises(UsageError, match="a folder of this name"):
        write_report([whole], tmp_path, force=True)
    with pytest.raises(UsageError, match="unknown format"):
        write_report([whole], tmp_path / "x", kind="pdf")


def test_a_report_changes_nothing_in_the_run_and_is_the_same_twice(whole, tmp_path):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert page_of(whole) == page_of(whole)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_exports_beside_a_run_are_in_a_table(whole):
    (whole / "s.onnx").write_bytes(b"onnx")
    (whole / "s.onnx.json").write_text(json.dumps({"node": "resnet8", "kind": "onnx", "int8": True, "bytes": 4321,
                                                   "checked": {"agreement": 0.991}, "latency": {"median_ms": 1.25}}))
    values = Reader(page_of(whole)).values
    assert {"4321", "0.991", "1.25"} <= set(values)
