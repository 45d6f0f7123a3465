"""Submission: the CSVs of a split, checked and packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import ArtifactError, SourceError
from pipeline.frames import grid_lonlat_bounds
from pipeline.schema import Grid
from pipeline.steps import Progress, silent
from pipeline.submission import pack_submission, validate_csv


def check_names(names: Mapping[str, str]) -> Mapping[str, str]:
    """The names themselves, which images have in the zip, by image id.

    Raises:
        SourceError: two images have one name.
    """
    owners: dict[str, str] = {}
    for image_id, name in names.items():
        if (other := owners.setdefault(name, image_id)) != image_id:
            raise SourceError(
                "two images have this name in the submission",
                where=f"{name}.csv",
                found=[other, image_id],
                remedy="It is the end of their addresses in [Storage] catalogue: let one end otherwise.",
            )
    return names


def submit(
    csvs: Mapping[str, Path],
    names: Mapping[str, str],
    grids: Mapping[str, Grid],
    zip_path: Path,
    categories: Sequence[str],
    progress: Progress = silent,
) -> None:
    """Writes the zip.

    Args:
        csvs: published CSV by image id.
        names: name each has in the zip, by image id.
        grids: frame of each image, for its size and place.
        zip_path: where the zip goes.
        categories: names in the order of the columns.
        progress: told before each CSV.

    Raises:
        ArtifactError: a CSV is not what the challenge takes.
    """
    for number, (image_id, csv) in enumerate(csvs.items()):
        progress(number / len(csvs), f"checking {csv.name}, {number + 1}/{len(csvs)}")
        grid = grids[image_id]
        bounds = grid_lonlat_bounds(grid)
        faults = validate_csv(csv, categories, bounds_lonlat=bounds, width=grid.width, height=grid.height)
        if faults:
            raise ArtifactError(
                f"{len(faults)} faults, the first: {faults[0]}",
                where=csv,
                remedy="Aggregate the image again.",
            )
    pack_submission({names[image_id]: csv for image_id, csv in csvs.items()}, zip_path)
