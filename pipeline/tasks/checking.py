"""What is wrong with labels, and the versions that they are compared in."""

from __future__ import annotations

import logging

from pipeline import settings
from pipeline.checks import CheckRules
from pipeline.labels import read_area
from pipeline.schema import ModelTag, TileIndex
from pipeline.steps.checking import check_labels, model_rows, now, write_findings
from pipeline.steps.detection_rows import read_detections
from pipeline.steps.detections import tag_of
from pipeline.steps.drawing import tile_path
from pipeline.stores.opening import open_versions
from pipeline.stores.versions import Version, VersionStore
from pipeline.targets import PublishedTarget, Workspace
from pipeline.tasks.detecting import network
from pipeline.tasks.learning import LoadLabels
from pipeline.tasks.mapping import AggregateImage, JudgedImage

logger = logging.getLogger("luigi-interface")


def open_workspace_versions(workspace: Workspace) -> VersionStore:
    """The versions of a workspace's buildings: where labels are in a database there, else in files."""
    return open_versions(settings.Labels().database, workspace.review / "versions")


def keep_buildings(buildings: AggregateImage, number: int) -> str:
    """Name of the version that holds an image's published buildings, kept if it is new.

    Args:
        buildings: the map of the image, complete.
        number: the round it is kept for, 0 for none.
    """
    index, made_at = buildings.tiles.read(), now()
    model = _model(buildings, index)
    version = Version(
        f"{model.name}-{model.weights}-{buildings.digest}", "model", buildings.digest, number, made_at
    )
    rows = model_rows(
        buildings.csv, index, settings.Labels().names, f"{model.name}/{model.weights}", made_at, number
    )
    open_workspace_versions(buildings.workspace).add(buildings.image_id, version, rows)
    return version.name


def _model(buildings: AggregateImage, index: TileIndex) -> ModelTag:
    """The network that has looked at the tiles of an image, or would have, where there are none."""
    if not index.tiles:
        return tag_of(network().weights)
    return read_detections(tile_path(buildings.shards[0].detections, index.tiles[0])).model


class CheckLabels(JudgedImage):
    """`<image_id>.checks.json`, `.csv`, `.gpkg`: what is wrong with labels, and the best they allow."""

    sections = (settings.Checks, settings.Labels)

    def output(self) -> PublishedTarget:
        """The findings."""
        return PublishedTarget(self.workspace.record(self.image_id, "CheckLabels"), self.digest)

    def run(self) -> None:
        """Compares, and writes the table, the map layer and the ceiling."""
        against = keep_buildings(self.buildings, 0)
        with self.publishing(self.output()) as (folder, counts):
            image = self.tiles.tiled
            check, findings = check_labels(
                image,
                self.labels.source,
                settings.Labels(),
                settings.Checks().rules(CheckRules),
                open_workspace_versions(self.workspace),
                self._drawn(image.grid.crs),
                against,
                self.progress,
            )
            counts |= check.findings
            stem = folder / f"{self.image_id}.checks"
            write_findings(stem, findings)
            stem.with_name(f"{stem.name}.json").write_text(check.model_dump_json(indent=1))
        logger.info("check of %s\n%s", self.image_id, check.table())

    def _drawn(self, crs: str) -> Version:
        """What the labels are kept as: another where the image's frame or categories change."""
        digest, area = LoadLabels(image_id=self.image_id).digest, self.labels.area
        return Version(f"drawn-{digest}", "drawn", digest, 0, now(), read_area(area, crs) if area else None)
