"""Are the weights still the same bytes? A commit against the working tree, on this machine, with this torch.

For code that is moved or rewritten and must compute what it did before. Both trees run the same cases on one thread of
the processor: the smoke run, two tiny rounds of every strategy, conditional and not, and runs that the commit began
and the working tree goes on with. Compared are the tensors of ``final/*.safetensors`` and of each checkpoint's
``global.safetensors`` and ``own.safetensors``, by name, dtype, shape and bytes::

    python benchmarks/golden.py --commit 2682e7d
    python benchmarks/golden.py --commit 2682e7d --only "scaffold|resumed" --jobs 2

Results of the commit are kept in the cache, so that the next comparison runs the working tree alone. Images and the
extractor come from one ``data.cache-dir`` for both trees: how they are made is not compared.

Cases are written with the commit's keys; a tree that has renamed some translates them by its
``federation.config.RENAMED_KEYS``. Exit codes: 0 all equal, 1 something differs or failed, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("federation", "data_partitions", "clients", "strategies", "server", "commands")

# Keys below are those of the commit, and stay so where the working tree renames them: translate() knows the others.
# Written out, not read from a tree: a strategy that got lost must show.
STRATEGIES = (
    "fedgan",
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedadam",
    "fedyogi",
    "fedadagrad",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
    "multikrum",
    "bulyan",
    "geometric-median",
    "qfedavg",
    "scaffold",
    "fednova",
    "feddyn",
    "fedbn",
    "partial-sync",
    "fegan",
    "fed-tgan",
    "ifl-gan",
    "fedcar",
    "label-aware",
    "cap-gan",
    "effgan",
    "dp-fedavg-gan",
    "ua-gan",
    "md-gan",
    "centralised",
    "alone",
)
PER_NETWORK = {
    "fedadam of G, median of D": ("strategy.generator=fedadam", "strategy.discriminator=fedmedian"),
    "scaffold of G, D private": ("strategy.generator=scaffold", "strategy.discriminator=private"),
    "G private, label-aware D": ("strategy.generator=private", "strategy.discriminator=label-aware"),
}
SPECIAL = {
    "effgan": ("strategy.fine-tune-rounds=1",),
    "ua-gan": ("training.loss=logistic",),
    "md-gan": ("training.loss=logistic", "strategy.swap-rounds=1"),
    "dp-fedavg-gan": ("training.loss=logistic", "strategy.noise-multiplier=0.1"),
    "fegan": ("participation.fraction=0.7",),
    # In the first step these are FedGAN; FedNova is where hospitals take as many steps.
    "fedprox": ("training.local-steps=2",),
    "feddyn": ("training.local-steps=2",),
    "fednova": ("partition.scheme=quantity", "training.local-steps=0", "training.local-epochs=0.1"),
    "fedtrimmedavg": ("partition.hospitals=5",),
    "krum": ("partition.hospitals=5",),
    "multikrum": ("partition.hospitals=5",),
    "bulyan": ("partition.hospitals=7",),
}
# One without anything to carry along, and those that carry most.
RESUMED = ("fedgan", "fedadam", "scaffold", "md-gan")
TINY = (
    "data.phantom-images=400",
    "partition.scheme=iid",
    "partition.hospitals=3",
    "partition.min-images=1",
    "rounds=2",
    "model.channel-max=8",
    "model.channel-base=32",
    "model.latent-size=8",
    "model.mapping-layers=1",
    "training.local-steps=1",
    "training.batch-size=2",
    "evaluation.images=16",
    "evaluation.every=2",
    "evaluation.threads=1",
    "checkpoint.every=1",
    "simulation.fail-fast=true",
    "participation.retries=0",
)
# What is measured of the last generator changes no weights and takes longer than the rounds. One thread: the same
# extractor as that of the other cases, which is trained once.
SMOKE = ("evaluation.utility=false", "evaluation.authenticity=false", "evaluation.threads=1")

# Files of a checkpoint that are compared: not the strategy's, whose names are its own affair.
_NETWORKS = ("global.safetensors", "own.safetensors")
# How the sentence on a case begins.
_VERDICTS = ("equal", "differs", "failed")


# ---------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Case:
    """Something that both trees compute."""

    name: str
    kind: str
    """``smoke``, ``rounds`` or ``resumed``."""
    assignments: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Name of its folder: that of another case, or of the same with other settings, is another one."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]
        return f"{re.sub('[^a-z0-9]+', '-', self.name.lower())}-{digest}"


@dataclass(frozen=True)
class Run:
    """A run that a worker makes for a case."""

    case: str
    kind: str
    """``smoke``, ``rounds`` or ``resume``."""
    run_dir: str
    assignments: tuple[str, ...]
    begun: str = ""
    """``resume``: the run directory of which a copy is resumed."""


def list_cases(data_cache: Path) -> list[Case]:
    """Return all cases; `data_cache` is the ``data.cache-dir`` of all of them."""
    cache = f"data.cache-dir={data_cache}"
    cases = [Case("smoke", "smoke", (cache, *SMOKE))]
    strategies = {name: (f"strategy.name={name}", *SPECIAL.get(name, ())) for name in STRATEGIES}
    for name, assignments in (strategies | PER_NETWORK).items():
        for label, conditional in (("conditional", "true"), ("unconditional", "false")):
            if "label-aware" in name and conditional == "false":
                continue  # refused: it would be FedGAN
            settings = (cache, *TINY, *assignments, f"model.conditional={conditional}")
            cases.append(Case(f"{name}, {label}", "rounds", settings))
    cases += [Case(f"{name}, resumed", "resumed", (cache, *TINY, *strategies[name])) for name in RESUMED]
    return cases


def runs_of_commit(case: Case, folder: Path) -> list[Run]:
    """Return what the commit runs for a case, below `folder`."""
    run_dir = str(folder / "run")
    if case.kind != "resumed":
        return [Run(case.name, case.kind, run_dir, case.assignments)]
    return [
        Run(case.name, "rounds", str(folder / "begun"), case.assignments),
        Run(case.name, "rounds", run_dir, (*case.assignments, "rounds=3")),
    ]


def runs_of_tree(case: Case, folder: Path, begun: Path) -> list[Run]:
    """Return what the working tree runs for a case; `begun` is the run of the commit that it goes on with."""
    if case.kind != "resumed":
        return runs_of_commit(case, folder)
    return [Run(case.name, "resume", str(folder / "run"), ("rounds=3", "resume=true"), str(begun))]


# ---------------------------------------------------------------------- the worker: in the tree under test


def work(job: Path) -> None:
    """Make the runs that a file lists, with the code of the working directory; say of each how it ended.

    All in one process, since importing torch and flwr takes longer than a case.
    """
    # Lines of json to the driver; what the code under test prints goes to the log.
    output, sys.stdout = sys.stdout, sys.stderr

    def say(**entries: object) -> None:
        print(json.dumps(entries), file=output, flush=True)

    for package in PACKAGES:
        origin = getattr(importlib.util.find_spec(package), "origin", None) or "nowhere"
        if not Path(origin).resolve().is_relative_to(Path.cwd().resolve()):
            raise RuntimeError(f"package {package} would come from {origin}, not from {Path.cwd()}")
    make_run: Callable[[Run], None] | None = None
    for entries in json.loads(job.read_text(encoding="utf-8")):
        run = Run(**entries)
        start, problem = time.perf_counter(), ""
        say(begin=run.case)
        print(f"== {run.case}: {run.run_dir}", flush=True)
        try:
            if run.kind == "smoke":
                run_smoke(run)
            else:
                make_run = make_run or prepare_tree(lambda note: say(note=note))
                make_run(run)
        except Exception as error:  # the other cases are wanted all the same
            traceback.print_exc()
            problem = describe(error)
        say(case=run.case, problem=problem, seconds=time.perf_counter() - start)


def describe(error: Exception) -> str:
    """Return an error in a line."""
    text = "; ".join(getattr(error, "problems", ())) or str(error)
    return f"{type(error).__name__}: {' '.join(text.split())[-600:]}"


def translate(assignments: Iterable[str]) -> list[str]:
    """Return assignments with the keys of the tree under test."""
    renamed = getattr(importlib.import_module("federation.config"), "RENAMED_KEYS", {})
    pairs = [assignment.split("=", 1) for assignment in assignments]
    return [f"{renamed.get(key, key)}={value}" for key, value in pairs]


def run_smoke(run: Run) -> None:
    """Make the smoke run as a person would, with the tree's own preset."""
    command = [sys.executable, "run_simulation.py", "--config", "conf/smoke.toml", "--run-dir", run.run_dir]
    for assignment in translate(run.assignments):
        command += ["--set", assignment]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    print(process.stdout, process.stderr, sep="\n")
    if process.returncode:
        last = (process.stderr.strip() or process.stdout.strip() or "said nothing").splitlines()[-1]
        raise RuntimeError(f"run_simulation.py ended with {process.returncode}: {last}")


def prepare_tree(note: Callable[[str], None]) -> Callable[[Run], None]:
    """Import the tree, take out what makes no weights; return a function that makes a run in this process."""
    app = importlib.import_module("server.app")
    client_app = importlib.import_module("clients.app").app
    config = importlib.import_module("federation.config")
    grids = importlib.import_module("federation.engine.grid")
    in_process = importlib.import_module("federation.engine.in_process")
    prepare_inputs = importlib.import_module("server.inputs").prepare_inputs
    console_class = importlib.import_module("rich.console").Console
    resolve = first_of(("strategies.configuration", "resolve"), ("federation.config", "resolve"))
    load_stored = first_of(("federation.config", "load_stored_toml"), ("federation.config", "load_toml"))

    for module, path, replacement in (
        ("server.app", "write_report", lambda *_: None),
        ("server.app", "plot_partition", lambda *_: None),
        ("server.app", "describe_judgement", lambda *_: []),
        ("server.evaluation.evaluator", "Evaluator.write_sample_sheet", lambda *_: None),
        ("server.evaluation.evaluator", "Evaluator.final_evaluation", lambda _: {"test": {"kid": 0.0}}),
    ):
        *parents, name = path.split(".")
        try:
            owner = functools.reduce(getattr, parents, importlib.import_module(module))
            getattr(owner, name)
        except (ImportError, AttributeError):
            note(f"there is no {module}.{path} to leave out: cases take longer, or fail")
            continue
        setattr(owner, name, replacement)

    known: dict[tuple[object, object], Any] = {}

    def make_run(run: Run) -> None:
        assignments = translate([f"run-dir={run.run_dir}", *run.assignments])
        layers = [config.parse_assignments(assignments)]
        if run.begun:
            shutil.copytree(run.begun, run.run_dir)
            layers.insert(0, load_stored(Path(run.run_dir) / "config.toml"))
        settings = resolve(layers)
        # Of one resolution all, so that the same data and partition are the same inputs.
        key = (settings.data, settings.partition)
        if key not in known:
            known[key] = prepare_inputs(settings)
        classes = {"data.classes": ",".join(known[key].index.classes)}
        inputs = replace(known[key], configuration=settings.with_values(classes))
        grid = in_process.InProcessGrid(client_app, grids.simulation_nodes(settings.partition.hospitals))
        app.run_federation(grid, inputs, console_class(file=io.StringIO(), width=200))

    return make_run


def first_of(*places: tuple[str, str]) -> Callable[..., Any]:
    """Return the first of these functions that the tree has."""
    for module, name in places:
        if importlib.util.find_spec(module) and hasattr(importlib.import_module(module), name):
            return getattr(importlib.import_module(module), name)
    raise RuntimeError(f"none of these is there: {', '.join('.'.join(place) for place in places)}")


# ---------------------------------------------------------------------- the comparison


def weight_files(run_dir: Path, last_only: bool = False) -> dict[str, Path]:
    """Return the files of a run that hold networks, by their path in it; of all checkpoints, or of the last."""
    checkpoints = sorted(run_dir.glob("checkpoints/round-*"))
    files = [
        *run_dir.glob("final/*.safetensors"),
        *(folder / name for folder in checkpoints[-1 if last_only else 0 :] for name in _NETWORKS),
    ]
    return {str(file.relative_to(run_dir)): file for file in sorted(files) if file.is_file()}


def read_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return dtype, shape and bytes of each tensor of a file."""
    import safetensors  # not needed to refuse wrong input

    entries = safetensors.deserialize(path.read_bytes())
    return {name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in entries}


def largest_difference(dtype: str, old: bytes, new: bytes) -> float:
    """Return the largest absolute difference of two tensors of one dtype; NaN where it cannot be told."""
    import numpy as np

    kinds = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}
    if dtype not in kinds:
        return float("nan")
    first, second = (np.frombuffer(data, kinds[dtype]).astype(np.float64) for data in (old, new))
    with np.errstate(invalid="ignore"):
        return float(np.abs(first - second).max())


def compare(old_dir: Path, new_dir: Path, last_only: bool) -> tuple[str, int]:
    """Return how two runs' weights differ, nothing if they are equal, and how many tensors were compared."""
    old_files, new_files = weight_files(old_dir, last_only), weight_files(new_dir, last_only)
    if old_files.keys() != new_files.keys():
        lost, added = sorted(old_files.keys() - new_files.keys()), sorted(new_files.keys() - old_files.keys())
        return f"other files: {', '.join([f'-{name}' for name in lost] + [f'+{name}' for name in added])}", 0
    differing, sizes, count = [], [], 0
    for file in old_files:
        old, new = read_tensors(old_files[file]), read_tensors(new_files[file])
        place = file.removeprefix("checkpoints/").removesuffix(".safetensors")
        for name in sorted(old.keys() | new.keys()):
            count += 1
            if name not in old or name not in new:
                differing.append(f"{place}: {name} ({'new' if name in new else 'missing'})")
            elif old[name][:2] != new[name][:2]:
                differing.append(f"{place}: {name} ({old[name][0]} {old[name][1]} -> {new[name][0]} {new[name][1]})")
            elif old[name][2] != new[name][2]:
                differing.append(f"{place}: {name}")
                sizes.append(largest_difference(old[name][0], old[name][2], new[name][2]))
    if not differing:
        return "", count
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    # max() passes over a NaN that is not the first.
    largest = next((size for size in sizes if size != size), max(sizes, default=float("nan")))
    amount = f"; max abs difference {largest:.3g}" if sizes else ""
    return f"{len(differing)} of {count} tensors: {', '.join(differing[:3])}{more}{amount}", count


def what_is_wrong(run_dir: Path) -> str:
    """Say why a run's weights would prove nothing: there are none, or rounds have not changed them."""
    if not any(run_dir.glob("final/*.safetensors")):
        return "no final/*.safetensors"
    checkpoints = sorted(run_dir.glob("checkpoints/round-*"))
    if len(checkpoints) < 2:
        return f"{len(checkpoints)} checkpoints, at least 2 are needed"
    first, last = (
        [file.read_bytes() for name in _NETWORKS if (file := folder / name).is_file()]
        for folder in (checkpoints[0], checkpoints[-1])
    )
    return "the last round has changed no weights" if first == last else ""


# ---------------------------------------------------------------------- the driver


def tell(text: str) -> None:
    """Show progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def run_worker(
    label: str, tree: Path, runs: Sequence[Run], log: Path, ended: Callable[[str, str, float], None]
) -> None:
    """Make runs with a tree's code; call `ended` with the case, what went wrong and the seconds once its last ended."""
    if not runs:
        return
    waiting: dict[str, int] = {}
    for run in runs:
        waiting[run.case] = waiting.get(run.case, 0) + 1
    total, seconds, problems = len(waiting), dict.fromkeys(waiting, 0.0), dict.fromkeys(waiting, "")
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        # One thread and no GPU: sums are always added in the same order.
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    running = "its imports"
    job = log.with_suffix(".json")
    job.write_text(json.dumps([asdict(run) for run in runs]), encoding="utf-8")
    tell(f"{label}: {total} cases in {tree}")
    # -P: this folder's own modules are not those of the tree.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--worker", str(job)]
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as worker,
    ):
        assert worker.stdout is not None
        for line in worker.stdout:
            entry = json.loads(line)
            running = entry.get("begin", running)
            if "note" in entry:
                tell(f"{label}: {entry['note']}")
            if "case" not in entry:
                continue
            case = entry["case"]
            seconds[case] += entry["seconds"]
            problems[case] = problems[case] or entry["problem"]
            waiting[case] -= 1
            if not waiting[case]:
                del waiting[case]
                tell(f"{label}: {total - len(waiting)}/{total} {case}, {seconds[case]:.1f} s")
                ended(case, problems[case], seconds[case])
    if waiting:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = said[-1] if said else "nothing"
        why = f"the worker ended with {worker.returncode} in {running}; the last in its log: {last}"
        for case in waiting:
            ended(case, why, 0.0)


def git(*arguments: str) -> bytes | None:
    """Return what a git command prints; None if it fails."""
    process = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, check=False)
    return None if process.returncode else process.stdout


def extract(commit: str, folder: Path) -> Path:
    """Write a commit's tree into a new folder. A git worktree would leave its traces in the repository."""
    archive = git("archive", "--format=tar", commit)
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def machine() -> str:
    """Return what a run's bytes depend on beside its code."""
    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        processor = next((line for line in info.read_text().splitlines() if line.startswith("model name")), processor)
    versions = [f"{name} {version(name)}" for name in ("torch", "numpy", "flwr")]
    return ", ".join([processor.partition(": ")[2] or processor, f"python {platform.python_version()}", *versions])


@dataclass
class Outcome:
    """How a case ended in one of the trees."""

    folder: Path
    problem: str = ""


class Comparison:
    """A commit and a tree, what they have computed so far, and the verdicts.

    Parameters
    ----------
    cases
        What is compared.
    commit
        Its full name.
    tree
        The working tree.
    cache
        Folder of what is kept between comparisons.
    out
        Folder of this comparison.
    """

    def __init__(self, cases: Sequence[Case], commit: str, tree: Path, cache: Path, out: Path) -> None:
        self.cases = {case.name: case for case in cases}
        self.commit, self.tree, self.out = commit, tree, out
        key = hashlib.sha256(machine().encode()).hexdigest()[:8]
        self.kept = cache / "commits" / f"{commit[:12]}-{key}"
        self.old: dict[str, Outcome] = {}
        self.new: dict[str, Outcome] = {}
        self.verdicts: dict[str, str] = {}
        self.num_tensors = 0
        self.lock = threading.Lock()

    def run_commit(self, fresh: bool) -> None:
        """Compute with the commit what is not kept from an earlier comparison."""
        label = self.commit[:7]
        if fresh:
            for case in self.cases.values():
                shutil.rmtree(self.kept / case.folder, ignore_errors=True)
        cached = [case for case in self.cases.values() if (self.kept / case.folder).is_dir()]
        if cached:
            tell(f"{label}: {len(cached)} of {len(self.cases)} cases are kept in {self.kept}")
        for case in cached:
            self._settle(self.old, case.name, Outcome(self.kept / case.folder))
        missing = [case for case in self.cases.values() if case.name not in self.old]
        if not missing:
            return
        self.kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".running-", dir=self.kept) as temporary:
            folder = Path(temporary)

            def ended(name: str, problem: str, seconds: float) -> None:
                case = self.cases[name]
                made, target = folder / case.folder, self.kept / case.folder
                problem = problem or what_is_wrong(made / "run")
                if not problem:
                    drop_the_rest(made / "run")
                    try:
                        made.rename(target)
                    except OSError:  # another comparison was faster
                        if not target.is_dir():
                            raise
                self._settle(self.old, name, Outcome(target, problem))

            source = extract(self.commit, folder / "tree")
            runs = [run for case in missing for run in runs_of_commit(case, folder / case.folder)]
            run_worker(label, source, runs, self.out / "commit.log", ended)

    def run_tree(self, kinds: Sequence[str]) -> None:
        """Compute the cases of these kinds with the working tree."""
        runs: list[Run] = []
        for case in self.cases.values():
            if case.kind not in kinds:
                continue
            if case.kind == "resumed" and self.old[case.name].problem:
                self._settle(self.new, case.name, Outcome(self.out, "there is nothing to resume"))
                continue
            begun = self.old[case.name].folder / "begun" if case.kind == "resumed" else Path()
            runs += runs_of_tree(case, self.out / case.folder, begun)

        def ended(name: str, problem: str, seconds: float) -> None:
            folder = self.out / self.cases[name].folder
            problem = problem or what_is_wrong(folder / "run")
            if not problem:
                drop_the_rest(folder / "run")
            self._settle(self.new, name, Outcome(folder, problem))

        run_worker("tree", self.tree, runs, self.out / f"tree-{kinds[-1]}.log", ended)

    def _settle(self, side: dict[str, Outcome], name: str, outcome: Outcome) -> None:
        """Note an outcome; where it is the second of its case, print the verdict."""
        with self.lock:
            side[name] = outcome
            if name not in self.old or name not in self.new:
                return
            old, new = self.old[name], self.new[name]
            problems = [
                f"{where}: {problem}"
                for where, problem in ((f"at {self.commit[:7]}", old.problem), ("in the tree", new.problem))
                if problem
            ]
            if problems:
                verdict = f"failed: {'; '.join(problems)}"
            else:
                last_only = self.cases[name].kind == "resumed"
                difference, count = compare(old.folder / "run", new.folder / "run", last_only)
                self.num_tensors += count
                verdict = f"differs: {difference}" if difference else "equal"
            self.verdicts[name] = verdict
            print(f"{name}: {verdict}", flush=True)


def drop_the_rest(run_dir: Path) -> None:
    """Remove from a finished run what is not compared: most of its bytes."""
    for entry in run_dir.iterdir():
        if entry.name in ("final", "checkpoints", "config.toml", "log.txt"):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def summarise(verdicts: Mapping[str, str], num_tensors: int, seconds: float) -> str:
    """Return the last line."""
    counts = {word: sum(verdict.startswith(word) for verdict in verdicts.values()) for word in _VERDICTS}
    found = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{len(verdicts)} cases: {found}; {num_tensors:,} tensors compared in {seconds:.0f} s"


def read_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", help="what is right: any name that git knows")
    parser.add_argument("--tree", type=Path, default=REPOSITORY, metavar="DIR", help="what is tested (default: here)")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases in whose names this is found")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and stop")
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2), help="2: both trees side by side (default 1)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="default: golden/ in dermafed's cache folder")
    parser.add_argument("--fresh", action="store_true", help="run the commit again, whatever is kept of it")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the tree's runs and the logs go, to stay there")
    parser.add_argument("--keep", action="store_true", help="without --out: leave the temporary folder, and name it")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser, parser.parse_args()


def choose_cases(parser: argparse.ArgumentParser, only: str, data_cache: Path) -> list[Case]:
    try:
        wanted = re.compile(only)
    except re.error as error:
        parser.error(f"--only {only}: is not a regular expression ({error})")
    cases = list_cases(data_cache)
    chosen = [case for case in cases if wanted.search(case.name)]
    if not chosen:
        parser.error(f"--only {only}: matches none of the {len(cases)} cases; --list prints them")
    return chosen


def main() -> int:
    parser, arguments = read_arguments()
    if arguments.worker:
        work(arguments.worker)
        return 0
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dermafed" / "golden"
    cache = (arguments.cache or user_cache).expanduser().resolve()
    cases = choose_cases(parser, arguments.only, cache / "data")
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    if not arguments.commit:
        parser.error("--commit: is needed; give the commit to compare with, e.g. HEAD")
    commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{arguments.commit}^{{commit}}")
    if commit is None:
        parser.error(f"--commit {arguments.commit}: there is no such commit in {REPOSITORY}")
    tree = arguments.tree.resolve()
    if not (tree / "run_simulation.py").is_file():
        parser.error(f"--tree {arguments.tree}: holds no run_simulation.py; give a checkout of this repository")
    if arguments.out and arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        parser.error(f"--out {arguments.out}: exists already; give another folder, or remove it")
    out = (arguments.out or Path(tempfile.mkdtemp(prefix="golden-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    (cache / "data").mkdir(parents=True, exist_ok=True)

    start = time.perf_counter()
    comparison = Comparison(cases, commit.decode().strip(), tree, cache, out)
    try:
        if arguments.jobs == 1:
            comparison.run_commit(arguments.fresh)
            comparison.run_tree(("smoke", "rounds", "resumed"))
        else:
            with ThreadPoolExecutor(2) as pool:
                sides = [
                    pool.submit(comparison.run_commit, arguments.fresh),
                    pool.submit(comparison.run_tree, ("smoke", "rounds")),
                ]
                for side in sides:
                    side.result()
            comparison.run_tree(("resumed",))  # with what the commit has begun
    except KeyboardInterrupt:
        tell("interrupted")
        return 130
    finally:
        if not arguments.out and not arguments.keep:
            shutil.rmtree(out, ignore_errors=True)
    if arguments.out or arguments.keep:
        tell(f"runs of the tree, and logs: {out}")
    print(summarise(comparison.verdicts, comparison.num_tensors, time.perf_counter() - start))
    return int(any(verdict != "equal" for verdict in comparison.verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())
