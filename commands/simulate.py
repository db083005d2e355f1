"""``dermafed simulate``: a federation on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from federation.config import Configuration, Layer, load_stored_toml, load_toml, parse_assignments
from federation.errors import RunDirectoryError
from federation.run_directory import check_free, holds_something, taken_directory
from strategies.configuration import resolve

if TYPE_CHECKING:
    from federation.engine.grid import SimulationGrid
    from server.inputs import RunInputs


def simulate(
    config: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.toml", help="A preset, e.g. conf/smoke.toml. May be repeated: the last one wins."),
    ] = None,
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one key, e.g. rounds=10 or partition.alpha=0.1."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the run goes. Default: runs/<utc time>-<name>.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --run-dir, with its configuration.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the configuration, the split and the partition, and stop.")
    ] = False,
) -> None:
    """Simulate hospitals that train a generative model together.

    Without arguments: four hospitals with generated images (no download, no patient), a few minutes on
    two cores. Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted (143 by SIGTERM, 129 by
    SIGHUP).
    """
    configuration = _configuration(config or [], set_values or [], run_dir, resume)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no width; tables need one
    if dry_run:
        show(configuration, console)
        return
    run(configuration, console)


def _configuration(config: list[Path], assignments: list[str], run_dir: Path | None, resume: bool) -> Configuration:
    """Resolve the layers of the command line."""
    layers: list[Layer] = []
    if resume:
        if run_dir is None:
            raise RunDirectoryError("--resume: needs to know which run; give --run-dir DIR as well")
        saved = run_dir / "config.toml"
        try:
            is_saved, is_other = saved.is_file(), run_dir.is_dir() and holds_something(run_dir)
        except OSError as error:
            raise RunDirectoryError(
                f"run directory {run_dir}: cannot be read ({error.strerror}); give another --run-dir"
            ) from None
        if is_saved:
            layers.append(load_stored_toml(saved))
        elif is_other:
            raise RunDirectoryError(f"run directory {run_dir}: has no config.toml to resume; give another --run-dir")
        else:
            typer.echo(f"nothing was saved in {run_dir} yet: starting anew", err=True)
            resume = False
    layers += [load_toml(path) for path in config]
    layers.append(parse_assignments(assignments))
    if resume:
        _check_family(layers)
    values: dict[str, object] = {"resume": resume}
    if run_dir is not None:
        values["run-dir"] = str(run_dir)
    layers.append(Layer("command line", values))
    configuration = resolve(layers)
    # Workers do not share this process's working directory for ever.
    configuration = configuration.with_absolute_paths()
    if configuration.run_dir and not configuration.resume:
        check_free(Path(configuration.run_dir))
    return configuration


def _check_family(layers: list[Layer]) -> None:
    """Refuse to go on with another family of models, before all that the run's own has set is found to be in vain."""
    names = [layer.values["model.name"] for layer in layers if "model.name" in layer.values]
    if names and names[-1] != names[0]:
        raise RunDirectoryError(
            f"model.name: the run was started with {names[0]!r} and cannot go on with {names[-1]!r}; "
            "set model.name back"
        )


def show(configuration: Configuration, console: Console) -> None:
    """Print the resolved configuration, the split and the partition. Writes nothing but the image cache."""
    from data_partitions.heterogeneity import partition_table
    from data_partitions.split import split_table
    from server.inputs import prepare_inputs
    from server.progress import RunProgress

    with RunProgress(configuration.rounds, console) as progress:
        inputs = prepare_inputs(configuration, progress.step)
    console.print(inputs.configuration.to_toml(), highlight=False, markup=False)
    for note in inputs.notes:
        console.print(f"data: {note}", highlight=False, markup=False)
    console.print(split_table(inputs.index, inputs.parts))
    console.print(partition_table(inputs.partition))


def run(configuration: Configuration, console: Console) -> Path:
    """Run the federation; return the run directory."""
    # Before flwr and ray are imported, which look at these.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with taken_directory(configuration.run_dir, configuration.name, resume=configuration.resume) as directory:
        try:
            inputs, engine = _prepare(configuration, console)
        except KeyboardInterrupt:
            from server.run_summary import how_to_go_on

            how = how_to_go_on(directory)
            console.print(f"interrupted before the first round; {how}", highlight=False, markup=False, soft_wrap=True)
            raise

        from server.app import run_federation

        try:
            return run_federation(engine, inputs, console, directory=directory)
        finally:
            engine.close()


def _prepare(configuration: Configuration, console: Console) -> tuple[RunInputs, SimulationGrid]:
    from clients.app import app as client_app
    from federation.engine import build_engine
    from server.app import run_federation  # noqa: F401  # takes seconds, and how a run is interrupted is known here
    from server.inputs import prepare_inputs
    from server.progress import RunProgress

    # Wrong data must end the command before workers start and before anything is written.
    with RunProgress(configuration.rounds, console) as progress:
        inputs = prepare_inputs(configuration, progress.step)
    return inputs, build_engine(inputs.configuration, client_app)
