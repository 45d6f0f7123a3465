"""The commands; each says in its docstring what `--help` prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="jengo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
labels_app = typer.Typer(help="Inspect label files.", no_args_is_help=True)
app.add_typer(labels_app, name="labels")

FAULT = 1
"""Exit code of a check that found something, and of a user's mistake."""


def _show_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"jengo {metadata.version('jengo')}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From drone orthomosaics to building maps. Run it in the folder with input/ and luigi.cfg."""


def main() -> int:
    """Runs the command line; a user's mistake is one line on stderr and exit code 1."""
    from models.errors import Mistake

    try:
        app()
    except Mistake as error:
        sys.stderr.write(f"jengo: {error}\n")
        return FAULT
    except OSError as error:
        from pipeline.mishaps import as_mishap

        if (mishap := as_mishap(error, Path.cwd())) is None:
            raise
        sys.stderr.write(f"jengo: {mishap}\n")
        return FAULT
    return 0


def _images() -> list[str]:
    """Ids in this folder, for shell completion: no more is imported than that takes."""
    folders = Path("input").glob("*/images/[!.]*")
    return sorted({path.stem for path in folders if path.suffix.lower() in (".tif", ".tiff", ".vrt", ".jp2")})


def _complete_image(incomplete: str) -> list[str]:
    return [name for name in _images() if name.startswith(incomplete)]


def _workspace():
    from pipeline import settings
    from pipeline.targets import Workspace

    settings.check_all()
    return Workspace(settings.Storage().workspace)


def _image_id(image: str, link: bool) -> str:
    """The id of an image given as an id or as a path; a path from elsewhere may be linked into input/test."""
    from pipeline.steps.adding import add_input, input_id

    if not _is_raster(image):
        return image
    return (add_input if link else input_id)(_workspace(), Path(image))


def _is_raster(image: str) -> bool:
    """Whether an image is given as a path."""
    from pipeline.inputs import IMAGE_SUFFIXES

    return Path(image).suffix.lower() in IMAGE_SUFFIXES


def _source(image: str) -> Path | str:
    """The path or URL of an image given as an id, a path or a URL."""
    from pipeline.inputs import IMAGE_SUFFIXES
    from pipeline.steps.adding import check_file
    from pipeline.tasks import SourceImage

    if "://" in image or Path(image).is_file():
        return image
    if _is_raster(image):
        check_file(Path(image), IMAGE_SUFFIXES)
    return SourceImage(image_id=image).source


Image = Annotated[str, typer.Argument(help="Image id, path or URL.", autocompletion=_complete_image)]


@app.command()
def doctor() -> None:
    """Check this machine and workspace for problems.

    Checks versions, GDAL and PROJ, the GPU, luigi.cfg, images and labels, disk, memory and the label
    store, and suggests a remedy for every problem. Exits with 1 if a run would fail.
    """
    from pipeline import settings
    from pipeline.errors import SettingsError
    from pipeline.steps.doctor import examine
    from pipeline.targets import Workspace

    try:
        root = settings.Storage().workspace
    except SettingsError:
        root = "."
    levels = set()
    for finding in examine(Workspace(root)):
        typer.echo(str(finding))
        levels.add(finding.level)
    raise typer.Exit(FAULT if "fault" in levels else 0)


@app.command()
def add(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Georeferenced rasters.")],
    labels: Annotated[
        Path | None, typer.Option(help="Vector file with the building labels, in any CRS.")
    ] = None,
    area: Annotated[
        Path | None,
        typer.Option(help="Polygons within which all buildings are labelled.", show_default="everywhere"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Subfolder of input/.",
            show_default="where the image is already, else training with labels, test without",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Image id, instead of the file's stem.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files instead of linking them.")] = False,
) -> None:
    """Add images and their labels to this workspace.

    They are linked into input/ under a common file stem. If there is no luigi.cfg, one is written that
    suits this machine.
    """
    from pipeline.errors import SettingsError
    from pipeline.inputs import IMAGE_SUFFIXES, LABEL_SUFFIXES
    from pipeline.steps.adding import add_input, check_file
    from pipeline.steps.first_settings import write_settings

    if name and len(images) > 1:
        raise SettingsError("names one image", where="--name", found=name, remedy="Add them one by one.")
    for path in images:
        check_file(path, IMAGE_SUFFIXES)
    for path in filter(None, (labels, area)):
        check_file(path, LABEL_SUFFIXES)
    if write_settings(Path(), images[0]):
        typer.echo("luigi.cfg: written, with settings for this machine")
    workspace = _workspace()
    for image in images:
        added = add_input(workspace, image, labels, area, split=split, name=name, copy=copy)
        place = workspace.find_image(added)
        typer.echo(f"{added}: {place.relative_to(workspace.root) if place else ''}")
        if labels and not split and place and place.parents[1].name != "training":
            typer.echo(f"{added} lies there already: its labels lie beside it and are not learnt from")


@app.command()
def info(
    image: Image,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a few tiles on this machine to estimate the total.")
    ] = False,
) -> None:
    """Show an image's size, CRS, tiles and expected cost."""
    from pipeline import settings
    from pipeline.raster import Imagery
    from pipeline.steps.facts import image_facts

    source = _source(image)
    imagery, names = settings.Imagery().rules(Imagery), settings.Labels().names
    facts = image_facts(
        Path(image).stem,
        source,
        imagery,
        settings.Tiling(),
        settings.Inference(),
        settings.Training(),
        names if measure else (),
    )
    typer.echo(facts.table())


@app.command()
def run(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Image ids, or paths of rasters, which are linked into input/test.",
            show_default="all of input/test",
            autocompletion=_complete_image,
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="Task to run, with all its dependencies.")] = "ReportImage",
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Setting for this run only."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of tasks to run in parallel.")] = 1,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Report the run to the server of `jengo dashboard`.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port of that server.", show_default="[core] of luigi.cfg, or 8082"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the luigi command.")] = False,
) -> None:
    """Map images, including all steps this depends on.

    Trains a network first if there is none yet, resumes an interrupted run and skips what is complete.
    Prints the equivalent luigi command, runs it, and prints the paths of the results.
    """
    # First: Luigi reads luigi.cfg as soon as it is imported, and ends in a traceback where it cannot.
    workspace = _workspace()
    from jengo.lines import as_typed, check_images, check_scheduler, luigi_line
    from pipeline.errors import SettingsError
    from pipeline.tasks import ReportImages

    if port and not dashboard:
        raise SettingsError("is that of the dashboard", where="--port", found=port, remedy="Add --dashboard.")
    ids = [_image_id(image, link=False) for image in images or ()] or ReportImages().names
    arguments = luigi_line(task, ids, given=given or (), workers=workers, dashboard=dashboard, port=port)
    check_images([name for name in images or ids if not _is_raster(name)], arguments)
    typer.echo(as_typed(arguments), err=True)
    if dry_run:
        return
    if dashboard:
        from luigi.interface import core

        check_scheduler(core().scheduler_host, port or core().scheduler_port)
    for image in images or ():
        _image_id(image, link=True)
    code = _luigi(arguments)
    if code == 0 and task == "ReportImage":
        from pipeline.summary import summary

        typer.echo("\n" + "\n\n".join(summary(workspace, image_id) for image_id in ids))
    raise typer.Exit(code)


def _luigi(arguments: list[str]) -> int:
    """Exit code of luigi's own command line."""
    from luigi.retcodes import run_with_retcodes

    # Threads that wait asleep: beside other work, waiting awake makes learning ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        run_with_retcodes(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@app.command()
def summary(
    image: Annotated[str, typer.Argument(help="Image id.", autocompletion=_complete_image)],
) -> None:
    """Show the score of a mapped image, and where its results lie."""
    from pipeline.names import check_image_id
    from pipeline.summary import summary as summarize

    typer.echo(summarize(_workspace(), check_image_id(image)))


@app.command()
def verify(
    discard: Annotated[bool, typer.Option("--discard", help="Remove what is damaged.")] = False,
) -> None:
    """Check that results and artifacts are whole.

    Compares them with their run records, prints a line for each that is damaged, and exits with 1 if there
    are any. With --discard, they are removed and the tasks named that make them again. Inputs are never
    touched.
    """
    from pipeline import verify as verifying
    from pipeline.errors import SettingsError

    workspace = _workspace()
    if not workspace.work.is_dir() and not workspace.output.is_dir():
        remedy = "Run it in the folder with luigi.cfg."
        raise SettingsError("holds neither work/ nor output/", where=workspace.root, remedy=remedy)
    found = verifying.verify(workspace.root)
    for damage in found.damages:
        typer.echo(str(damage))
    typer.echo(f"{found.records} run records, {found.files} files, {len(found.damages)} damaged")
    if discard and found.damages:
        verifying.discard(found.damages)
        typer.echo("what is damaged is gone; these tasks make it again, with the settings that made it:")
        for task in dict.fromkeys(damage.remake for damage in found.damages):
            typer.echo(f"  luigi --module pipeline {task} --local-scheduler")
    raise typer.Exit(FAULT if found.damages else 0)


@labels_app.command("check")
def check_labels(
    file: Annotated[Path, typer.Argument(help="Label file, or the id of an image that has one.")],
    image: Annotated[
        str | None,
        typer.Option(help="Id or path of the labelled image.", show_default="the image of the same stem"),
    ] = None,
) -> None:
    """Report how every row of a label file is handled.

    Stores nothing. If the settings do not fit the file, prints a [Labels] section that would. Exits with
    1 if no label could be used for training.
    """
    from pipeline import settings
    from pipeline.raster import Imagery
    from pipeline.steps.labels import preview_labels

    workspace = _workspace()
    stem = file.stem
    path = workspace.find_labels(str(file)) or file
    source = _source(image) if image else workspace.find_image(stem)
    imagery, rules = settings.Imagery().rules(Imagery), settings.Labels().label_rules()
    report, wanted = preview_labels(path, source, workspace.find_area(stem), imagery, rules)
    typer.echo(f"{path}, {f'on {source}' if source else 'without its image'}\n{report.table()}")
    if wanted:
        typer.echo(f"\nno row has a category; in luigi.cfg, merging what means the same:\n\n{wanted}")
    raise typer.Exit(0 if sum(report.categories.values()) else FAULT)


@app.command()
def validate(
    csv: Annotated[Path, typer.Argument(help="CSV as published by AggregateImage.")],
    image: Annotated[
        str | None, typer.Option(help="Id or path of the image that must contain the buildings.")
    ] = None,
) -> None:
    """Validate a CSV against the format of the challenge.

    Exits with 1 if it is invalid.
    """
    from pipeline import settings
    from pipeline.frames import grid_lonlat_bounds
    from pipeline.raster import Imagery, read_grid
    from pipeline.submission import read_csv, validate_csv

    names = settings.Labels().names
    grid = read_grid(_source(image), settings.Imagery().rules(Imagery)) if image else None
    faults = validate_csv(
        csv,
        names,
        bounds_lonlat=grid_lonlat_bounds(grid) if grid else None,
        width=grid.width if grid else None,
        height=grid.height if grid else None,
    )
    buildings = 0 if faults else len(read_csv(csv, names).polygons_px)
    typer.echo("\n".join(faults) if faults else f"{csv}: {buildings} buildings, no fault")
    raise typer.Exit(FAULT if faults else 0)


@app.command()
def catalogue(
    name: Annotated[
        str | None,
        typer.Argument(help="CSV of a catalogue.", show_default="the one in luigi.cfg, else the challenge's"),
    ] = None,
) -> None:
    """List the images of a catalogue: id, split and URL."""
    from pipeline import settings
    from pipeline.catalogue import CHALLENGE, read_catalogue

    chosen = name or settings.Storage().catalogue or CHALLENGE
    for entry in read_catalogue(chosen).values():
        typer.echo(f"{entry.image_id}  {entry.split:<9} {entry.url}")
    if chosen == CHALLENGE:
        licence = "Commission for Lands, Revolutionary Government of Zanzibar, CC-BY-4.0"
        typer.echo(f"imagery: {licence}", err=True)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8082,
    address: Annotated[
        str, typer.Option(help="Address to listen on; there is no authentication.")
    ] = "127.0.0.1",
    history: Annotated[
        str | None,
        typer.Option(help="SQLAlchemy URL of the task history database.", show_default="work/history.db"),
    ] = None,
) -> None:
    """Serve a web page to monitor runs.

    Starts luigid, which shows graph, progress and failures of every `jengo run --dashboard`, until Ctrl-C.
    Keeps its state and the task history in work/, and serves Prometheus metrics at /metrics.
    """
    from pipeline.dashboard import serve

    serve(_workspace(), address=address, port=port, history=history)
