"""The commands: each reads words, calls what they name and prints what comes back; no hyperparameter is a flag.

Nothing here imports torch until a command needs it, so that help is there at once.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from tutelage.cli.terminal import listen_to_signals, note, say
from tutelage.errors import UsageError, unknown
from tutelage.system.text import table

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
TaskOfFiles = Annotated[str | None, typer.Option("--task", metavar="TASK", help="What the files are for, where they do "
                                                "not say it: classification, segmentation, detection, series, "
                                                "forecast, recommendation, sentences or slots.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a key.")]
Plugin = Annotated[list[str] | None, typer.Option(metavar="MODULE", help="Allow networks of this Python module.")]
RECIPE = "A TOML recipe, or the name of one that comes along: `tutelage recipes`."
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help=RECIPE)]


def train(recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help=RECIPE)] = None,
          out: Annotated[Path | None, typer.Option(help="The run folder to make, or to go on with; else "
                                                   "runs/FOLDER/NAME, by the recipe.")] = None,
          resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.")] = None,
          set_: Set = None, plugin: Plugin = None,
          quick: Annotated[bool, typer.Option(help="Three steps on synthetic images: a smoke run.")] = False,
          download: Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not here.")] = False,
          with_teachers: Annotated[bool, typer.Option("--with-teachers", help="First train the teachers that it names "
                                                      "by recipe, as far as ./runs has no finished run.")] = False,
          numerics: Annotated[Path | None, typer.Option(hidden=True, help="Number formats of a study's runs.")] = None,
          as_json: Json = False, debug: Debug = False) -> None:
    """Train the networks of a recipe in a run folder. A run that was stopped, or killed, goes on to the same bits.

    tutelage train cifar100/dual_student --with-teachers --out runs/dual-0 --set train.seed=1
    """
    if (recipe is None) == (resume is None):
        raise UsageError("say what to train", expected="RECIPE, or --resume DIR")
    sets = [*(set_ or []), *(["data.download=true"] if download else [])]
    if resume is not None and (out is not None or sets or quick or with_teachers):
        raise UsageError("a resumed run keeps its own recipe", where="--resume",
                         found="--resume with --out, --set, --quick, --download or --with-teachers",
                         fix="tutelage train --resume DIR")
    from tutelage.cli.named import file_of
    from tutelage.cli.training import Call, train_into, train_teachers
    from tutelage.recipes.added_keys import lacking_in
    from tutelage.recipes.names import usual_run
    from tutelage.recipes.recipe import read_recipe
    from tutelage.recipes.trained_run import recipe_of_run
    from tutelage.system.distributed import connect, disconnect

    if resume is not None:
        where, folder, words = resume / "config.toml", resume, recipe_of_run(resume, plugin or [])
    else:
        assert recipe is not None
        where = file_of(recipe)
        folder = out or usual_run(where, quick=quick)
        words = read_recipe(where, sets, quick=quick, plugins=plugin or [], older=lacking_in(folder))
    asked = listen_to_signals()
    call = Call(lambda: asked[0] if asked else 0, as_json, quick, plugin or [], download)
    world = connect(words.train.device)
    try:
        if with_teachers:
            train_teachers(folder, words, where, world, call)
        train_into(folder, words, where, world, call, numerics)
    finally:
        disconnect()


def evaluate(run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
             on: Annotated[str, typer.Option(help="validation, test or train.")] = "validation",
             cost: Annotated[bool, typer.Option(help="Also measure parameters, FLOPs, bytes and latency.")] = True,
             attack: Annotated[float | None, typer.Option(metavar="EPS", min=0, max=1, help="Also attack what has "
                               "learned: no pixel, in [0, 1], moves by more. As in training if that attacks.")] = None,
             plugin: Plugin = None, as_json: Json = False, debug: Debug = False) -> None:
    """Measure the networks of a finished run, and the ensemble of its students, on one of its splits.

    All numbers, logits and example images are written into RUN/evaluation/.

    tutelage evaluate runs/dual-0 --on test --json
    """
    if on not in ("validation", "test", "train"):
        raise UsageError("unknown split", where="--on", found=on, expected="validation, test or train")
    from tutelage.cli.results import evaluation_text
    from tutelage.recipes.evaluate import evaluate_run
    from tutelage.recipes.trained_run import recipe_of_run
    from tutelage.system.distributed import connect, disconnect

    world = connect(recipe_of_run(run, plugin or []).train.device)
    try:
        metrics, price = evaluate_run(run, on, world, plugin or [], cost=cost, eps=attack, note=note)
    finally:
        disconnect()
    if world.main:
        say(json.dumps({"run": str(run), **metrics, "cost": price}) if as_json else evaluation_text(metrics, price))


def compare(recipes: Annotated[list[Path], typer.Argument(metavar="RECIPES...",
                                                          help="A study, or recipes: files or names.")],
            out: Annotated[Path, typer.Option(help="The study's folder: made, or gone on with.")],
            seeds: Annotated[int, typer.Option(help="Every recipe is trained with seeds 0 to N - 1.", min=1)] = 5,
            baseline: Annotated[str | None, typer.Option(help="The method to hold the others against.")] = None,
            on: Annotated[str, typer.Option(help="test, or validation for tuning.")] = "test",
            jobs: Annotated[int, typer.Option(help="So many runs at a time.", min=1)] = 1,
            ray: Annotated[str | None, typer.Option("--ray", metavar="[ADDRESS]", help="Run on a Ray cluster, or on a "
                                                    "local one; needs tutelage[ray].")] = None,
            set_: Set = None, plugin: Plugin = None,
            condition: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this condition of the study."
                                                                )] = None,
            quick: Annotated[bool, typer.Option(help="Three steps a run on synthetic images.")] = False,
            as_json: Json = False, debug: Debug = False) -> None:
    """Train methods with several seeds, whatever is missing of them, and compare them pair by pair.

    tutelage compare digits/study --seeds 5 --out out/study --jobs 2
    """
    if on not in ("validation", "test"):
        raise UsageError("unknown split", where="--on", found=on, expected="test or validation")
    from tutelage.cli.named import file_of
    from tutelage.studies.compare import REPORT_FILE, Hands, compare_all
    from tutelage.studies.study import Asked, read_study, under_conditions

    asked, stop = Asked(seeds, on, tuple(set_ or ()), quick, tuple(plugin or ())), listen_to_signals()
    studies = under_conditions(read_study([file_of(one) for one in recipes], baseline), condition or [])
    results, error = compare_all(studies, asked, out, Hands(jobs, ray), lambda: stop[0] if stop else 0,
                                 note if as_json else say)
    say(json.dumps(results) if as_json else "\n" + (out / REPORT_FILE).read_text(encoding="utf-8"))
    if error is not None:
        raise error


def report(folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Run folders and study folders.")],
           to: Annotated[Path, typer.Option(help="The file to write.")],
           format_: Annotated[str | None, typer.Option("--format", help="html, md, csv or json.")] = None,
           force: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
           debug: Debug = False) -> None:
    """Put runs and studies on one page: who learned what from whom, how well, and how to do it again.

    tutelage report runs/demo-* --to report.html
    """
    from tutelage.reporting.write import write_report

    say(f"{to}: {write_report(folders, to, kind=format_, force=force)} bytes")


def export(run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
           node: Annotated[str, typer.Option(help="Which of its networks.")],
           to: Annotated[Path, typer.Option(help="The file to write; FILE.json is written beside it.")],
           format_: Annotated[str | None, typer.Option("--format", help="safetensors, pt2, onnx or pte.")] = None,
           int8: Annotated[bool, typer.Option("--int8", help="8-bit numbers (ONNX).")] = False,
           resize: Annotated[bool, typer.Option("--resize", help="Take images of any size.")] = False,
           force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
           on: Annotated[str, typer.Option(help="The split to try it on.")] = "validation",
           agreement: Annotated[float, typer.Option(help="With --int8: the least.", min=0, max=1)] = 0.98,
           accuracy_lost: Annotated[float, typer.Option(help="With --int8: the most.", min=0, max=1)] = 0.01,
           plugin: Plugin = None, as_json: Json = False, debug: Debug = False) -> None:
    """Write one network for a device, and keep the file only if it says what the network says.

    tutelage export runs/dual-0 --node resnet8 --to resnet8.onnx --int8
    """
    from tutelage.cli.results import export_text
    from tutelage.exporting.from_run import choice, export_run
    wanted = choice(to, format_, int8, resize)
    report = export_run(run, node, to, wanted, on=on, force=force, agreement=agreement,
                        accuracy_lost=accuracy_lost, plugins=plugin or [])
    say(json.dumps(report) if as_json else export_text(report, to))


def predict(model: Annotated[Path, typer.Option(help="An exported .onnx file, exported vectors of a recommender, or a "
                                                "run folder.")],
            files: Annotated[Path | None, typer.Argument(
                metavar="FILE_OR_FOLDER", help="An image, series, text or a table, or a folder of these. Of a "
                "recommender, a file of users, CSV or a name a line; without it all of them.")] = None,
            visible: Annotated[Path | None, typer.Argument(metavar="[VISIBLE]", help="Of pairs to fuse: the visible "
                                                           "image or folder, after the infrared one.")] = None,
            node: Annotated[str | None, typer.Option(help="Which network of the run.")] = None,
            to: Annotated[Path | None, typer.Option(help="Where masks, or other images, go: a folder; numbers: "
                                                    "FILE.csv; of a recommender FILE.csv or FILE.json.")] = None,
            force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
            confidence: Annotated[float | None, typer.Option(
                help="Say which are below it: 0.5. Boxes that are below it are left out: 0.3.", min=0, max=1)] = None,
            top: Annotated[int, typer.Option(help="How many items for each user.", min=1, max=10_000)] = 10,
            taken: Annotated[Path | None, typer.Option(
                help="Interactions whose items are left out, besides those of the run's data.")] = None,
            with_taken: Annotated[bool, typer.Option("--with-taken", help="Leave no item out.")] = False,
            plugin: Plugin = None, as_json: Json = False, debug: Debug = False) -> None:
    """Classify images, series or text, make masks, find objects, fuse pairs, forecast, or say the best items of users.

    Exit code 3 if a file cannot be read, or a user is not known. An .onnx file needs no torch.

    tutelage predict my-photos --model resnet8.onnx
    """
    from tutelage.cli.predicting import said_of_files, say_top_items
    from tutelage.exporting.predict import Classifier, Damaged, Detector, Fuser, open_onnx
    if model.suffix.lower() == ".onnx":
        student = open_onnx(model)
    else:
        from tutelage.exporting.from_run import open_predictor, open_scorer
        if (scorer := open_scorer(model, node, plugin or [])) is not None:
            unknown_users = say_top_items(files, scorer, top, taken, with_taken, to, force, as_json)
            raise typer.Exit(3 if unknown_users else 0)
        student = open_predictor(model, node, plugin or [])
    if files is None or taken is not None or with_taken:
        raise UsageError("no file to predict" if files is None else "--taken is for recommenders", where="predict",
                         expected="FILE_OR_FOLDER, and no --taken")
    if isinstance(student, Classifier | Detector | Fuser) and student.prepared.orientation == "as stored":
        note("images are read as stored, as this network has learned them: an EXIF orientation is not applied")
    damaged = 0
    for found in said_of_files(files, student, confidence, to, force, visible):
        damaged += isinstance(found, Damaged)
        say(found.as_json() if as_json else str(found))
    raise typer.Exit(3 if damaged else 0)


def cache(recipe: RecipePath, set_: Set = None, plugin: Plugin = None, as_json: Json = False,
          debug: Debug = False) -> None:
    """Compute ahead what the teachers of a recipe say of each draw of the images; training then looks it up.

    tutelage cache cifar100/dual_student --set train.draws=8
    """
    from tutelage.cli.named import file_of
    from tutelage.recipes.job import cache_job, make_job
    from tutelage.recipes.recipe import read_recipe
    from tutelage.system.distributed import connect, disconnect

    recipe = file_of(recipe)
    words = read_recipe(recipe, set_ or [], plugins=plugin or [])
    world = connect(words.train.device)
    try:
        for draw, run in cache_job(make_job(words, world, recipe), world):
            held = run.cache
            assert held is not None
            of, size, folder, notes = run.settings.draws, held.bytes(), str(held.folder), held.notes
            kept = {"event": "draw", "draw": draw, "of": of, "bytes": size, "folder": folder, "notes": notes}
            text = "\n  ".join([f"draw {draw + 1} of {of}: {size} bytes in {folder}", *notes])
            if world.main:
                say(json.dumps(kept) if as_json else text)
    finally:
        disconnect()


def bench(recipe: RecipePath, set_: Set = None, plugin: Plugin = None,
          rounds: Annotated[int, typer.Option(help="How often everything is measured in turn.", min=1)] = 5,
          only: Annotated[list[str] | None, typer.Option(help="Only this group of rows.")] = None,
          to: Annotated[Path | None, typer.Option(help="Write the table as JSON here.")] = None,
          as_json: Json = False, debug: Debug = False) -> None:
    """Measure how fast this is on your machine, as ratios to the best floor and to a naive loop.

    tutelage bench cifar100/dual_student --to bench.json
    """
    from tutelage.bench.recipe import bench_recipe
    from tutelage.cli.named import file_of
    from tutelage.recipes.recipe import read_recipe
    from tutelage.system.distributed import World, choose_device
    from tutelage.system.files import write_json

    recipe = file_of(recipe)
    words = read_recipe(recipe, set_ or [], plugins=plugin or [])
    result = bench_recipe(words, World(choose_device(words.train.device)), rounds, only, where=recipe,
                          tell=(lambda line: None) if as_json else say)
    if to is not None:
        write_json(to, result)
    if as_json:
        say(json.dumps(result))


def recipes(as_json: Json = False, debug: Debug = False) -> None:
    """List the recipes and studies that come along, by name, with the first line of each.

    tutelage recipes
    """
    from tutelage.cli.named import list_recipes

    list_recipes(as_json)


def graph(recipe: RecipePath, set_: Set = None, plugin: Plugin = None, as_json: Json = False,
          debug: Debug = False) -> None:
    """Show who learns from whom in a recipe, checked, before anything trains.

    tutelage graph digits/dual_student --set method.peers=none
    """
    from tutelage.cli.named import file_of
    from tutelage.graph.graph_data import data_of
    from tutelage.recipes.recipe import graph_of, read_recipe, settings_of

    recipe = file_of(recipe)
    words = read_recipe(recipe, set_ or [], plugins=plugin or [])
    made = graph_of(words, recipe)
    settings_of(words, made)
    still = {node: arch.freeze for node, arch in words.models.items() if arch.freeze is not None}
    if as_json:
        say(json.dumps({"nodes": list(made.nodes), "edges": [edge.name for edge in made.edges], "table": str(made),
                        "graph": {**data_of(made), **({"freeze": still} if still else {})}}))
    else:
        parts = {node: names if isinstance(names, str) else ", ".join(names) for node, names in still.items()}
        say("\n".join([str(made), *(f"\n{node}: {names} does not learn" for node, names in parts.items())]))


def analyse_layers(of: Annotated[Path, typer.Argument(metavar="RUN_OR_RECIPE", help="Whose teacher to look into.")],
                   node: Annotated[str | None, typer.Option(help="Which network; the frozen one.")] = None,
                   layers: Annotated[list[str] | None, typer.Option("--layer", help="Only this layer; or all.")] = None,
                   count: Annotated[int, typer.Option(help="How many layers to pick.", min=1)] = 4,
                   images: Annotated[int, typer.Option(help="Training images to look at.", min=4)] = 1000,
                   components: Annotated[Literal["sum", "mean"],
                                         typer.Option(help="sum, as the authors' code, or mean.")] = "sum",
                   set_: Set = None, plugin: Plugin = None, as_json: Json = False, debug: Debug = False) -> None:
    """Say how much there is to learn at each layer of a network, and pick the teacher's layers for feature_only.

    tutelage analyse layers digits/feature_only --count 3
    """
    from tutelage.analysis.layer_quality import best, measure_layers
    from tutelage.cli.named import file_of
    from tutelage.recipes.trained_run import networks_of

    found, data = networks_of(file_of(of, folders=True), set_ or [], plugin or [])
    node = node or next(iter(found))
    if node not in found:
        raise unknown("network", node, found, where="--node")
    qualities = measure_layers(found[node], data.train, layers=layers or [], images=images, seed=0,
                               components=components)
    picked = best(qualities, count)
    if as_json:
        each = {layer: {**vars(one), "quality": one.quality} for layer, one in qualities.items()}
        say(json.dumps({"node": node, "layers": each, "picked": picked}))
        return
    rows = [[layer, *(f"{number:.3f}" for number in (*vars(one).values(), one.quality)), "picked" * (layer in picked)]
            for layer, one in qualities.items()]
    say(table([["layer", "separation", "information", "efficiency", "quality", ""], *rows]))
    say(f"\nlayers = {{ {node} = {json.dumps(picked)}, ... }}")


def check_data(folder: Annotated[Path, typer.Argument(metavar="FOLDER|RECIPE", help="Images, images with masks or "
                                                      "boxes, series, or a table of users and items; of a recipe, "
                                                      "those that its [data] names.")],
               every: Annotated[bool, typer.Option("--list", help="Name every file.")] = False,
               value_range: Annotated[tuple[float, float] | None, typer.Option(
                   metavar="LOW HIGH", help="As in [data], for files of more than 8 bits a channel.")] = None,
               task: TaskOfFiles = None, as_json: Json = False, debug: Debug = False) -> None:
    """Open every image or series and say what is wrong, kind by kind; exit code 3 if a run would stop at it.

    tutelage check-data my-photos
    """
    from tutelage.recipes.folder_check import check_any_folder

    report = check_any_folder(folder, value_range, task)
    say(report.as_json() if as_json else report.text(every=every))
    if report.errors:
        raise typer.Exit(3)


def pre_resize(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of large images.")],
               to: Annotated[Path, typer.Option(help="Where the smaller images go.")],
               size: Annotated[int, typer.Option(help="Pixels of the shorter side.")] = 256,
               as_json: Json = False, debug: Debug = False) -> None:
    """Make a folder of smaller images with the same classes, names and splits, which is read many times faster.

    tutelage pre-resize my-photos --to my-photos-256
    """
    from tutelage.data.resize import pre_resize

    done = pre_resize(folder, to, size)
    say(json.dumps(vars(done)) if as_json else str(done))


def init(context: typer.Context,
         folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="FOLDER/train/CLASS/* or FOLDER/CLASS/*; "
                                                "FOLDER/images/* with masks or boxes; series; or a table of users and "
                                                "items.")],
         teacher: Annotated[str | None, typer.Option(help="The teacher's network, if you want another.")] = None,
         students: Annotated[list[str] | None, typer.Option(help="Two or more networks, one after another.")] = None,
         to: Annotated[Path, typer.Option(help="Where to write the recipes.")] = Path(),
         task: TaskOfFiles = None, debug: Debug = False) -> None:
    """Look at your data and write two recipes, teacher.toml and students.toml, with defaults that fit them.

    A folder of classes, of images with masks or boxes, series, or users with items: what lies there says the task.

    tutelage init my-photos --teacher timm:resnet50 --students timm:resnet18 timm:mobilenetv2_100
    """
    from tutelage.recipes.init import write_recipes

    say(write_recipes(folder, teacher, [*(students or []), *context.args], to, told=task))
