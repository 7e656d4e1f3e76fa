"""`make bench-peers`: one teacher, one student, the same work in our loop and in other tools.

Each tool runs in a process of its own (`tools.py`), and they take turns of a few steps, so that whatever else the
machine does falls on all alike. Time is the CPU time of that process on one thread; a ratio is the median over rounds,
with the least and the most. First every tool must show that it computes the same losses for 20 steps.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import IO

from tutelage.system.files import write_json

HERE = Path(__file__).parent
HOME = HERE.parent / "out"
OURS = {"ours online": 2.0, "ours cached": 2.6, "ours online fp32": 1.2, "ours cached fp32": 1.8}
"""Row of ours -> how many times as fast as every other tool it is meant to be."""
PEERS: dict[str, Sequence[str]] = {  # tool -> what is installed, by name; timm is there already, in our version
    "plain loop": (), "timm": (), "torchdistill": ("torchdistill==1.1.5",), "Lightning": ("lightning==2.6.6",),
    "Transformers": ("transformers==5.24.0", "accelerate==1.15.0"),
    "mdistiller": ("tensorboardX==2.6.5", "yacs==0.1.8"), "RepDistiller": ()}
FOLDERS = {"mdistiller": "MDISTILLER", "RepDistiller": "REPDISTILLER"}
"""Tools that no registry has -> the environment variable with the folder of their source."""
SAME = 1e-5


class Tool:
    """A running process of `tools.py`."""

    def __init__(self, name: str, python: Path, weights: Path) -> None:
        command = [str(python), str(HERE / "tools.py"), name, str(weights)]
        log = (HOME / "bench" / f"{name.replace(' ', '-')}.log").open("w")
        self.name, self.log = name, Path(log.name)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.facts = self._read()

    def ask(self, command: str, steps: int) -> list[float]:
        """The answer to one line."""
        _write(self.process.stdin, f"{command} {steps}\n")
        return self._read()

    def close(self) -> None:
        """Let it end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()

    def _read(self):
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            told = self.log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(told[-1] if told else "it ended without a word")
        return json.loads(line)


def _write(pipe: IO[str] | None, text: str) -> None:
    assert pipe is not None
    pipe.write(text)
    pipe.flush()


def show_packages(to: Path) -> None:
    """Let what lies in the folder `to` see all packages that are seen from here."""
    base = [path for path in sys.path if path.endswith("site-packages")]
    # Not the paths alone: the product is installed by a .pth file of its own, which is read there only so.
    (to / "product.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in base))


def environment(skipped: dict[str, str]) -> Path:
    """out/bench-env: what the product runs on is seen from there, the tools are installed there and nowhere else."""
    folder = HOME / "bench-env"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        show_packages(packages)
    for tool, wanted in PEERS.items():
        place = os.environ.get(FOLDERS.get(tool, ""), "")
        if tool in FOLDERS and not (place and Path(place).is_dir()):
            skipped[tool] = f"no source: set {FOLDERS[tool]} to the folder of a clone"
            continue
        done = wanted and subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted],
                                         capture_output=True, text=True)
        if done and done.returncode:
            skipped[tool] = f"not installed: {done.stderr.strip().splitlines()[-1]}"
    return python


def started(names: Sequence[str], python: Path, weights: Path, skipped: dict[str, str]) -> Iterator[Tool]:
    """The tools that can be started; of the others, why not."""
    for name in names:
        if name in skipped:
            continue
        try:
            yield Tool(name, python, weights)
        except RuntimeError as error:
            skipped[name] = f"does not start: {error}"
            print(f"{name} is left out: {skipped[name]}")


def check(tools: Sequence[Tool], steps: int) -> dict[str, float]:
    """Tool -> the largest difference of its losses from the plain loop's, on the same views."""
    losses = {tool.name: tool.ask("check", steps) for tool in tools}
    right = losses["plain loop"]
    return {name: max(abs(one - other) for one, other in zip(found, right, strict=True))
            for name, found in losses.items()}


def turns(tools: Sequence[Tool], rounds: int, steps: int) -> dict[str, list[float]]:
    """Tool -> CPU seconds of a step in each round, every other round backwards; each turn has a step to warm up."""
    seconds: dict[str, list[float]] = {tool.name: [] for tool in tools}
    for number in range(rounds):
        for tool in (tools[::-1] if number % 2 else tools):
            found = tool.ask("turn", steps)
            seconds[tool.name].append(sum(found) / len(found))
    return seconds


def distinct(mine: Sequence[Tool]) -> tuple[list[Tool], dict[str, str]]:
    """Ours without those that turned out the same program, and for each of these which one it is.

    Where no network is faster in bfloat16, what was tuned is float32 already.
    """
    kept: dict[tuple[bool, str], Tool] = {}
    same = {}
    for tool in mine:
        program = ("cached" in tool.name, str(tool.facts["choices"]))
        if program in kept:
            same[tool.name] = kept[program].name
            tool.close()
        kept.setdefault(program, tool)
    return list(kept.values()), same


def table(seconds: Mapping[str, Sequence[float]]) -> list[dict[str, object]]:
    """A row for each peer and each of ours: the peer's time divided by ours, round by round."""
    rows = []
    for peer in (name for name in seconds if name not in OURS):
        for mine, reach in ((mine, reach) for mine, reach in OURS.items() if mine in seconds):
            found = [other / one for one, other in zip(seconds[mine], seconds[peer], strict=True)]
            rows.append({"peer": peer, "ours": mine, "reach": reach, "value": median(found), "least": min(found),
                         "most": max(found), "reached": median(found) >= reach})
    return rows


def show(seconds: Mapping[str, Sequence[float]], rows: Sequence[Mapping], apart: Mapping[str, float]) -> None:
    """The table, as text."""
    mine = [name for name in OURS if name in seconds]
    print(f"{'':18}{'ms a step':>10}  " + "".join(f"{f'{name} >= {OURS[name]:g}':>28}" for name in mine)
          + "   losses apart")
    for name, found in seconds.items():
        cells = [f"{row['value']:.2f} [{row['least']:.2f}, {row['most']:.2f}] {'yes' if row['reached'] else 'NO':>3}"
                 for row in rows if row["peer"] == name]
        print(f"{name:18}{1000 * median(found):10.0f}  " + "".join(f"{cell:>28}" for cell in cells or [""] * len(mine))
              + f"   {apart.get(name, float('nan')):.1e}")


def machine() -> dict[str, object]:
    """Processor, cores and the versions of everything that computes."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    libraries = {name: version(name) for name in ("torch", "torchvision", "timm", "numpy", "pillow", "tutelage")}
    return {"processor": (names or ["?"])[0], "cores": os.cpu_count(), "threads": 1,
            "python": sys.version.split()[0], **libraries, **{line.split("==")[0]: line.split("==")[1]
                                                              for wanted in PEERS.values() for line in wanted
                                                              if "==" in line}}


def main() -> None:
    """Run all of it, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn that are measured")
    parser.add_argument("--check", type=int, default=20, help="steps in which the losses are compared")
    parser.add_argument("--teacher-steps", type=int, default=0, help="train the teacher for so many steps first")
    parser.add_argument("--only", nargs="*", help="only these peers")
    parser.add_argument("--to", type=Path, help="write the results as JSON here")
    given = parser.parse_args()
    (HOME / "bench").mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", TUTELAGE_CACHE=str(HOME / "bench" / "cache"))
    skipped: dict[str, str] = {}
    python = environment(skipped)
    peers = [name for name in PEERS if not given.only or name in (*given.only, "plain loop")]
    weights = HOME / "bench" / f"teacher-{given.teacher_steps}.safetensors"
    if not weights.exists():
        subprocess.run([str(python), str(HERE / "teacher.py"), str(given.teacher_steps), str(weights)], check=True)
    shutil.rmtree(HOME / "bench" / "cache", ignore_errors=True)  # tuning and the teacher's logits are part of the work
    mine, same = distinct(list(started(list(OURS), python, weights, skipped)))
    others = list(started(peers, python, weights, skipped))
    result: dict[str, object] = {
        "work": "resnet50 teaches resnet18, both torchvision's, at 32 x 32, batches of 128, CIFAR-10",
        "command": " ".join(["benchmarks/peers.py", *sys.argv[1:]]), "rounds": given.rounds, "steps": given.steps,
        "teacher_steps": given.teacher_steps, "machine": machine(), "the same program": same,
        "facts": {tool.name: tool.facts for tool in [*mine, *others]}}
    apart = check([*others, *mine], given.check)
    wrong = {name: f"other losses than the plain loop's: {most:.1e} apart"
             for name, most in apart.items() if most > SAME and name in PEERS}
    skipped |= wrong
    others = [tool for tool in others if tool.name not in wrong]
    for kept in (False, True):
        for tool in others if kept else []:
            tool.ask("keep", 0)
        seconds = turns([*others, *mine], given.rounds, given.steps)
        seconds |= {name: seconds[other] for name, other in same.items()}
        rows = table(seconds)
        print(f"\nPeers with {'our' if kept else 'their own'} allocator setting")
        show(seconds, rows, apart | {name: apart[other] for name, other in same.items()})
        result |= {"with our allocator setting" if kept else "as they are": {"seconds": seconds, "rows": rows},
                   "losses_apart": apart, "left_out": skipped}
        if given.to is not None:
            write_json(given.to, result)
    for tool in [*mine, *others]:
        tool.close()
    for name, why in skipped.items():
        print(f"left out: {name}: {why}")


if __name__ == "__main__":
    main()
