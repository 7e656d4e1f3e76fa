"""The command as its user meets it: what is printed, exit codes, and that a mistake is one block and no traceback."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from toy_tasks import PIXELS
from tutelage.cli import commands, main
from tutelage.cli.terminal import show
from tutelage.engine.train import Progress
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.recipes import job, trained_run
from tutelage.runs.folder import read_records
from tutelage.system.files import locked
from tutelage.tasks import named

RECIPE = """\
[data]
name = "digits"
image_size = 8
batch_size = 32

[models.t]
arch = "resnet8"
weights = "teacher.safetensors"

[models.a]
arch = "resnet8"

[models.b]
arch = "resnet8"

[method]
name = "dual_student"
teacher = "t"
students = ["a", "b"]

[train]
epochs = 2
precision = "exact"
"""
IMAGES = """\
[data]
name = "folder"
root = "photos"
image_size = 32
batch_size = 4
validation = 0.25

[models.a]
arch = "resnet8"

[method]
name = "scratch"
student = "a"

[train]
epochs = 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with a recipe, its teacher, and images with their recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "listen_to_signals", list)  # these are the test runner's own
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "images.toml").write_text(IMAGES)
    teacher = build(Architecture("resnet8"), class_names=list("0123456789"), channels=1, name="t").body
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            Image.effect_noise((40, 40), 60).convert("RGB").save(tmp_path / "photos" / name / f"{number}.jpg")
    return tmp_path


@pytest.fixture
def tutelage(folder, monkeypatch, capsys):
    """Call the command: its exit code, what it printed, and what it complained of."""
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tutelage", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err
    return call


@pytest.fixture
def refused(tutelage, folder):
    """A call that fails with one block of so many words, and makes nothing."""
    def call(code: int, *words: object) -> str:
        before = sorted(folder.rglob("*"))
        found, _, errors = tutelage(*words)
        assert found == code, errors
        assert errors.startswith("error[")
        assert "Traceback" not in errors
        assert sorted(folder.rglob("*")) == before
        return errors
    return call


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-80])


@pytest.mark.parametrize(("override", "code", "says"), [
    ("train.epcohs=1", 2, ["unknown key 'epcohs'", "recipe.toml, --set train.epcohs=1", "did you mean 'epochs'?"]),
    ("data.name=digit", 2, ["unknown name 'digit'", "recipe.toml, --set data.name=digit", "did you mean 'digits'?"]),
    ("method.name=dual_studnet", 2, ["unknown method", "--set method.name=dual_studnet", "mean 'dual_student'?"]),
    ("method.temperature=0", 2, ["temperature", "recipe.toml, line 16, [method], --set method.temperature=0: edge t",
                                 "a number above 0"]),
    ('method.peers=[["a", "a"]]', 2, ["its own peer", 'recipe.toml, --set method.peers=[["a", "a"]]: peers']),
    ("train.device=gpu", 2, ["unknown device", "device", "cpu, cuda or cuda:N"]),
    ("models.a.arch=resnet9", 2, ["unknown network", "line 10, [models.a], --set models.a.arch", "mean 'resnet8'?"]),
    ("models.t.arch=resnet14", 4, ["do not fit", "recipe.toml, line 6, [models.t]", "missing: layer1.1.conv1"]),
    ("models.t.weights=nothing.safetensors", 4, ["no such file", "[models.t]", "nothing.safetensors", "mend the path"]),
    ("models.t.weights=recipe.toml", 4, ["damaged or cut short", "recipe.toml, line 6, [models.t]"]),
    ("models.t.weights=old.pt", 9, ["pickled", "recipe.toml, line 6, [models.t]", "convert it once"]),
    ("models.a.arch=my.nets:small", 9, ["not allowed", "recipe.toml, line 10, [models.a]", "--plugin my.nets"]),
    ("models.a.pretrained=true", 2, ["only networks of timm", "recipe.toml, line 10, [models.a]"]),
    ("data.batch_size=5000", 3, ["fewer training images than one batch", "batch_size = 5000"]),
])
def test_what_a_recipe_gets_wrong_is_told_with_its_place_and_makes_nothing(refused, override, code, says):
    errors = refused(code, "train", "recipe.toml", "--out", "run", "--set", override)
    for words in says:
        assert words in errors


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda photos: shutil.rmtree(photos), ["no such folder of images", "photos"]),
    (lambda photos: shutil.rmtree(photos / "dog"), ["too few classes", "1 class folders"]),
    (lambda photos: [path.unlink() for path in (photos / "dog").iterdir()], ["without images", "photos/dog"]),
    (lambda photos: (photos / "dog" / "3.jpg").write_text("<html>"), ["not an image", "photos/dog/3.jpg", "<html>"]),
])
def test_a_folder_of_images_that_cannot_serve_is_told_at_the_door(refused, folder, spoil, says):
    spoil(folder / "photos")
    errors = refused(3, "train", "images.toml", "--out", "run")
    for words in says:
        assert words in errors


def test_a_truncated_image_is_named_by_check_data_and_when_it_is_read(tutelage, folder):
    for path in (folder / "photos" / "dog").iterdir():
        truncate(path)
    code, out, _ = tutelage("check-data", "photos")
    assert code == 3
    assert "8 x an image cannot be decoded" in out
    assert "image file is truncated" in out
    assert out.count("photos/") == 0
    assert tutelage("check-data", "photos", "--list")[1].count("dog/7.jpg") == 1
    code, _, errors = tutelage("train", "images.toml", "--out", "run")
    assert code == 3
    assert "photos/dog/" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("words", [["train"], ["train", "nothing.toml", "--out", "run"],
                                   ["train", "--resume", "nothing"], ["train", "--resume", "photos"],
                                   ["train", "--resume", "photos", "--download"], ["evaluate", "photos"],
                                   ["train", "--resume", "photos", "--with-teachers"], ["train", "photos"],
                                   ["evaluate", "photos", "--on", "tset"]])
def test_a_call_that_cannot_be_meant_is_a_usage_error(refused, words):
    assert refused(2, *words).startswith("error[usage]: ")


@pytest.mark.parametrize(("words", "block"), [
    (["train", "--otu", "x", "recipe.toml"], ["unknown option '--otu'", "tutelage train", "did you mean '--out'?"]),
    (["train", "--otu=x", "recipe.toml"], ["unknown option '--otu'", "did you mean '--out'?"]),
    (["train", "-out", "x", "recipe.toml"], ["unknown option '-out'", "did you mean '--out'?"]),
    (["train", "-x"], ["unknown option '-x'", "one of: --debug, --download, --help, --json"]),
    (["init", "photos", "--otu", "x"], ["unknown option '--otu'", "did you mean '--to'?"]),
    (["--versoin"], ["unknown option '--versoin'", "did you mean '--version'?"]),
    (["trian", "recipe.toml"], ["unknown command 'trian'", "did you mean 'train'?"]),
    (["analyse", "layrs"], ["unknown command 'layrs'", "tutelage analyse", "did you mean 'layers'?"]),
    (["--"], ["missing command", "tutelage --help"]),
    (["compare", "--out", "x"], ["the argument 'RECIPES...' is missing", "tutelage compare --help"]),
    (["compare", "recipe.toml"], ["the option '--out' is missing", "tutelage compare --help"]),
    (["train", "recipe.toml", "--out"], ["the option '--out' needs a value", "--out VALUE"]),
    (["train", "recipe.toml", "--out", "--quick"], ["the option '--out' needs a value", "found     --quick"]),
    (["train", "recipe.toml", "--out", "--help"], ["the option '--out' needs a value", "found     --help"]),
    (["analyse", "layers", "x", "--node", "--images", "9"], ["the option '--node' needs a value"]),
    (["train", "recipe.toml", "--quick=3", "--out", "x"], ["the option '--quick' takes no value", "--quick=3"]),
    (["compare", "recipe.toml", "--out", "x", "--seeds", "x"], ["where     --seeds", "found     x", "integer"]),
    (["compare", "recipe.toml", "--out", "x", "--seeds=0"], ["where     --seeds", "found     0", "equal to 1"]),
    (["evaluate", "photos", "--attack", "2"], ["where     --attack", "found     2", "equal to 1"]),
    (["evaluate", "photos", "--attack", "-1"], ["where     --attack", "found     -1", "equal to 0"]),
    (["train", "recipe.toml", "images.toml"], ["too many arguments", "tutelage train", "found     images.toml"]),
])
def test_a_mistake_in_the_command_line_is_a_block_of_ours(refused, tutelage, words, block):
    errors = refused(2, *words)
    assert errors.startswith("error[usage]: ")
    for text in block:
        assert text in errors
    for text in ("Usage:", "Error:", "Try '", "No such", "\033"):
        assert text not in errors
    if "--" not in words:
        code, _, told = tutelage(*words[:1], "--json", *words[1:])
        assert code == json.loads(told)["exit_code"] == 2


def test_a_value_may_begin_with_dashes_where_it_is_tied_to_its_option(tutelage):
    code, out, _ = tutelage("train", "recipe.toml", "--quick", "--out=--quick")
    assert (code, out.splitlines()[-1]) == (0, "finished: --quick")


@pytest.mark.parametrize(("words", "code"), [([], 2), (["analyse"], 2), (["--help"], 0), (["train", "--help"], 0)])
def test_help_is_there_when_nothing_is_said(tutelage, words, code):
    found, out, errors = tutelage(*words)
    assert found == code
    assert (errors if code else out).startswith("Usage: ")


def test_the_version_is_that_of_the_package(tutelage):
    assert tutelage("--version") == (0, f"tutelage {version('tutelage')}\n", "")


def test_the_shell_is_told_how_a_command_goes_on(folder):
    asked = {"_TUTELAGE_COMPLETE": "complete_bash", "COMP_WORDS": "tutelage tra", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['tutelage']; from tutelage.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == ["train"], done.stderr


def test_a_place_that_is_no_run_is_left_as_it_is(refused):
    assert "something else" in refused(2, "train", "recipe.toml", "--quick", "--out", "photos")
    assert "this is a file" in refused(2, "train", "recipe.toml", "--quick", "--out", "images.toml")


def test_the_same_call_again_is_finished_and_another_run_in_its_folder_is_refused(tutelage, folder):
    words = ("train", "recipe.toml", "--quick", "--out", "run")
    code, out, _ = tutelage(*words)
    assert code == 0
    assert re.search("^t +frozen$", out, re.MULTILINE)
    assert "epoch 1" in out
    finished = json.loads((folder / "run" / "FINISHED").read_text())
    assert sorted(finished) == ["metrics", "step", "weights"]
    assert sorted(finished["weights"]) == ["a", "b"]
    assert tutelage(*words)[:2] == (0, "already finished: run\n")
    code, _, errors = tutelage(*words, "--set", "train.seed=1")
    assert code == 2
    assert "there: seed = 0\n            now:   seed = 1" in errors
    with locked(folder / "run"):
        code, _, errors = tutelage(*words, "--set", "train.seed=1")
    assert code == 7
    assert str(os.getpid()) in errors
    code, out, _ = tutelage("evaluate", "run", "--on", "test", "--json")
    assert code == 0
    assert set(json.loads(out)["nodes"]) == {"t", "a", "b", "ensemble"}
    code, out, _ = tutelage("analyse", "layers", "run", "--node", "b", "--images", "20", "--json")
    assert (code, json.loads(out)["node"]) == (0, "b")
    code, out, _ = tutelage("analyse", "layers", "recipe.toml", "--images", "20", "--json")
    assert (code, json.loads(out)["node"]) == (0, "t")
    assert tutelage("analyse", "layers", "run", "--set", "train.seed=1")[0] == 2


def test_methods_and_graph_are_there_for_people_and_programs(tutelage):
    assert tutelage("methods", "--names")[1].split() == [
        "abkd", "akd", "alm", "channel_wise", "class_aware", "class_incremental", "cooperative", "dckd",
        "distill", "dual_student", "dynamic_rectification", "feature_only", "fleet", "image_kd", "learning_styles",
        "mean_teacher", "mutual", "peer_cohort", "peeraid", "pesf", "pld", "scratch", "self_distill",
        "snapshot_teacher", "stochastic_teacher", "switokd", "unkd", "wavelet"]
    assert "arXiv:2511.18826" in json.loads(tutelage("methods", "--json")[1])["dual_student"]
    code, out, _ = tutelage("graph", "recipe.toml", "--set", "method.peers=none", "--json")
    assert code == 0
    told = json.loads(out)
    assert list(told) == ["nodes", "edges", "table", "graph"]
    assert len(told["edges"]) == 4
    assert [node["name"] for node in told["graph"]["nodes"]] == told["nodes"]
    assert [edge["name"] for edge in told["graph"]["edges"]] == told["edges"]


@pytest.fixture
def toy_task(monkeypatch) -> str:
    """The name of a task that compares pixels, as one that is there."""
    monkeypatch.setitem(named.TASKS, PIXELS.name, PIXELS)
    return PIXELS.name


def test_methods_are_listed_by_the_task_that_they_are_for(tutelage, toy_task):
    every_one = tutelage("methods", "--names")[1].split()
    assert tutelage("methods", "--names", "--task", "classification")[1].split() == [
        name for name in every_one if name not in ("channel_wise", "class_aware", "dckd", "image_kd", "unkd")]
    dense = tutelage("methods", "--names", "--task", toy_task)[1].split()
    assert {"dual_student", "channel_wise", "akd"} <= set(dense)
    assert not {"alm", "pesf", "class_incremental", "switokd", "peeraid"} & set(dense)
    assert list(json.loads(tutelage("methods", "--task", toy_task, "--json")[1])) == dense
    code, _, errors = tutelage("methods", "--task", "clasification")
    assert code == 2
    assert "did you mean 'classification'?" in errors


def test_tasks_are_told_with_their_rows_edges_scores_and_methods(tutelage, toy_task):
    code, out, _ = tutelage("tasks")
    assert code == 0
    blocks = dict(zip(("classification", toy_task), out.strip().split("\n\n")[-2:], strict=True))
    assert blocks[toy_task].startswith(f"""{toy_task}
  labels  -> student  cross_entropy [pixels]  T=1  x 1
  teacher -> student  kl [pixels]             T=1  x 1
  rows: whole samples, pixels, channels
  scores, best goes by the first: top1, balanced_accuracy,""")
    assert "nll (lower is better)" in blocks[toy_task]
    assert blocks[toy_task].endswith("stochastic_teacher, wavelet")
    told = json.loads(tutelage("tasks", "--json")[1])
    assert told["classification"]["rows"] == []
    assert told["classification"]["scores"][0] == {"key": "top1", "title": "top-1", "better": "higher"}
    assert told[toy_task]["rows"] == ["pixels", "channels"]
    assert told[toy_task]["methods"] == tutelage("methods", "--names", "--task", toy_task)[1].split()


def test_a_method_that_is_not_for_the_task_of_the_data_is_refused(refused, toy_task):
    errors = refused(2, "graph", "recipe.toml", "--set", f"data.task={toy_task}", "--set", "method.name=switokd")
    assert "method switokd is for classification alone" in errors
    assert f"task {toy_task}" in errors
    assert "dual_student" in errors


def test_a_program_gets_the_error_as_json(tutelage):
    code, _, errors = tutelage("graph", "recipe.toml", "--set", "method.temperature=-1", "--json")
    told = json.loads(errors)
    assert code == told["exit_code"] == 2
    assert (told["error"], told["found"], told["expected"]) == ("usage", "temperature = -1.0", "a number above 0")


def test_a_traceback_is_shown_when_asked_for(tutelage):
    _, _, errors = tutelage("graph", "recipe.toml", "--set", "method.temperature=-1", "--debug")
    assert "Traceback" in errors


def test_a_number_that_is_no_longer_finite_names_the_last_good_checkpoint(tutelage):
    code, _, errors = tutelage("train", "recipe.toml", "--out", "run", "--set", "train.lr=1e30", "--set",
                               "train.checkpoint_steps=1")
    assert code == 5
    assert "no longer finite" in errors
    assert "last good checkpoint is run/checkpoints/step-0000000" in errors


@pytest.mark.parametrize("words", [["recipe.toml", "--quick", "--out", "run"], ["recipe.toml", "--quick", "--out=run"],
                                   ["--out", "other", "recipe.toml", "--quick", "--out=run"], ["--resume", "run"],
                                   ["--resume=run"]])
def test_a_bug_of_ours_is_kept_in_the_run_folder(tutelage, folder, monkeypatch, words):
    def broken(*arguments):
        (folder / "run").mkdir()
        raise KeyError("oops")

    monkeypatch.setattr(job, "train_job", broken)
    monkeypatch.setattr(trained_run, "recipe_of_run", broken)
    code, _, errors = tutelage("train", *words)
    assert code == 70
    assert "Traceback" not in errors
    assert "KeyError: 'oops'" in (folder / "run" / "crash.txt").read_text()


@pytest.mark.parametrize(("raised", "code", "says"), [
    ("KeyError('oops')", 70, "error[internal]: KeyError: 'oops'"),
    ("Interrupted(15)", 143, "stopped; a checkpoint is saved. Go on with: tutelage train --resume DIR"),
    ("UsageError('oops')", 2, "error[usage]: oops"), ("MemoryError", 6, "error[resource]: out of memory"),
    ("KeyboardInterrupt", 130, ""), ("RuntimeError('CUDA out of memory')", 6, "error[resource]: out of memory"),
])
def test_no_error_loads_torch_to_be_told(raised, code, says):
    done = subprocess.run([sys.executable, "-c", f"""
import sys
from tutelage.cli import main as cli
from tutelage.errors import Interrupted, UsageError

def broken(words):
    raise {raised}

cli._with_ray, sys.argv = broken, ["tutelage", "train"]
try:
    cli.main()
finally:
    assert not {{"torch", "torchvision", "timm"}} & set(sys.modules)
"""], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stderr.removeprefix("Traceback").startswith(says) or f"\n{says}" in done.stderr


@pytest.mark.parametrize("words", [["train", "--otu"], ["trian"], ["compare", "--seeds", "x"], ["train"], ["--version"],
                                   ["evaluate", "run", "--on", "tset"]])
def test_a_command_line_is_judged_without_torch(words):
    done = subprocess.run([sys.executable, "-c", f"""
import sys
from tutelage.cli.main import main

sys.argv = ["tutelage", *{words}]
try:
    main()
finally:
    print(sorted({{"torch", "torchvision", "timm"}} & set(sys.modules)))
"""], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stderr


def test_download_asks_for_the_data_set_once(tutelage, folder, monkeypatch):
    asked = []

    def ask(recipe, world, where):
        asked.append(recipe.data.download)
        raise KeyboardInterrupt
    monkeypatch.setattr(job, "make_job", ask)
    assert tutelage("train", "recipe.toml", "--out", "run", "--download")[0] == 130
    assert tutelage("train", "recipe.toml", "--out", "run")[0] == 130
    assert asked == [True, False]


class Terminal:
    """A terminal of 80 columns that remembers what was written to it."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


def test_progress_on_a_terminal_shows_every_loss_and_student_and_takes_its_place_again(monkeypatch):
    losses = {f"resnet8->mobilenetv2_{number}:kl/4": 1.0 for number in range(6)}
    event = Progress(1, 5, 100, 32, losses, {"resnet8": 0.5, "mobilenetv2": 0.25}, 1000.0)
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    show(event, 10, as_json=False)
    lines = terminal.text.removeprefix("\r\033[J").split("\n")
    assert max(map(len, lines[:-1])) < 80
    shown = " ".join(lines)
    for words in (*losses, "1000 images/s", "0:03 left", "resnet8 50.00%", "mobilenetv2 25.00%"):
        assert words in shown
    assert terminal.text.endswith(f"\033[{len(lines) - 1}A\r")


def started(folder: Path, *words: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen([sys.executable, "-m", *words], cwd=folder, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_has_the_weights_of_one_that_was_not(folder):
    words = ("tutelage", "train", "recipe.toml", "--set", "train.checkpoint_steps=7", "--set", "data.mixup=0.2",
             "--set", "train.epochs=1")
    whole, killed = started(folder, *words, "--out", "whole"), started(folder, *words, "--out", "killed")
    while killed.poll() is None and not list(folder.glob("killed/checkpoints/step-*14")):
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (folder / "killed" / "FINISHED").exists()
    resumed = started(folder, "tutelage", "train", "--resume", "killed")
    for process in (whole, resumed):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert [record["event"] for record in read_records(folder / "killed")].count("resume") == 1
    weights = [json.loads((folder / run / "FINISHED").read_text())["weights"] for run in ("whole", "killed")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_torchrun_starts_it_on_two_processes(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = started(folder, "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
                      f"--master-port={port}", "-m", "tutelage", "train", "recipe.toml", "--quick", "--out", "run")
    out, errors = process.communicate(timeout=240)
    assert (folder / "run" / "FINISHED").exists(), errors
    assert out.count("finished: run") == 1


def test_init_writes_recipes_for_students_named_one_after_another_and_refuses_one_alone(folder):
    process = started(folder, "tutelage", "init", "photos", "--teacher", "resnet14", "--students", "resnet8", "vgg8")
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "tutelage train students.toml --out runs/students" in out
    process = started(folder, "tutelage", "init", "photos", "--students", "resnet8", "--to", "other")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2
    assert errors.startswith("error[usage]: two students or more are needed\n  where     --students")


@pytest.mark.parametrize("kind", ["masks", "series"])
def test_init_asks_what_lies_there_and_what_it_writes_trains_with_its_teacher(folder, tutelage, kind):
    if kind == "masks":
        for number in range(10):
            for part, size in (("images", 40), ("masks", 1)):
                (folder / "data" / part).mkdir(parents=True, exist_ok=True)
                image = Image.effect_noise((40, 40), 60) if size > 1 else Image.linear_gradient("L").point(
                    lambda value: 255 * (value > 99)).resize((40, 40), Image.Resampling.NEAREST)
                image.save(folder / "data" / part / f"{number}.png")
    else:
        (folder / "data").mkdir()
        rows = [f"{row},{','.join(str((row % 2) * step) for step in range(9))}:{row % 2}" for row in range(20)]
        header = "@timestamps false\n@univariate true\n@equalLength true\n@classLabel true 0 1\n@data\n"
        (folder / "data" / "Walk_TRAIN.ts").write_text(header + "\n".join(rows) + "\n")
    process = started(folder, "tutelage", "init", "data", "--to", "mine")
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "  tutelage train mine/students.toml --with-teachers --out runs/mine/students" in out.splitlines()
    code, out, errors = tutelage("graph", "mine/students.toml")
    assert code == 0, errors
    assert "teacher" in out
    code, out, errors = tutelage("train", "mine/students.toml", "--quick", "--with-teachers")
    assert code == 0, errors
    assert out.splitlines()[-1] == "finished: runs/quick/mine/students"


def test_a_network_that_cannot_take_the_images_is_told_before_anything_is_written(refused):
    errors = refused(4, "train", "images.toml", "--out", "run", "--set", "models.a.arch=timm:vit_tiny_patch16_224")
    assert "does not run on these images" in errors
    assert "node 'a'" in errors
