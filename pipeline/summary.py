"""What a run brought, for a terminal: the score of an image and where its results lie."""

from __future__ import annotations

from pipeline.errors import SourceError
from pipeline.provenance import read_record
from pipeline.steps.evaluation import Evaluation
from pipeline.targets import Workspace

RESULTS = {
    ".html": "the map and the numbers on one page: open it in a browser",
    ".geojson": "the buildings, for QGIS",
    ".csv": "the buildings, as the challenge asks for them",
    ".qgs": "a project for QGIS: buildings, tiles, labels and what to review",
    ".gpkg": "its layers, with their styles",
    ".parquet": "the buildings as GeoParquet",
    ".fgb": "the buildings as FlatGeobuf",
    ".shp": "the buildings as a shapefile",
    ".pmtiles": "the buildings as tiles for a web map",
    ".mbtiles": "the buildings as tiles for a web map",
    ".report.json": "the metric",
}


def summary(workspace: Workspace, image_id: str) -> str:
    """The lines that end a run.

    Raises:
        SourceError: nothing was published for this image.
    """
    record = read_record(workspace.record(image_id, "AggregateImage"))
    if record is None:
        raise SourceError(
            "no results", where=workspace.output, found=image_id, remedy=f"Map it: jengo run {image_id}."
        )
    counts = record.counts
    lines = [f"{image_id}: {counts['buildings']} buildings from {counts['detections']} detections", ""]
    report = workspace.output / f"{image_id}.report.json"
    if report.is_file():
        lines += [Evaluation.model_validate_json(report.read_bytes()).table(), ""]
    for ending, meaning in RESULTS.items():
        path = workspace.output / f"{image_id}{ending}"
        if path.is_file():
            lines.append(f"{path}  {meaning}")
    return "\n".join(lines)
