"""A review round goes out to people."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import luigi

from pipeline import settings
from pipeline.labels import read_area
from pipeline.raster import Imagery
from pipeline.review.proposals import propose
from pipeline.review.records import Queue, Round
from pipeline.seams import MergeRules
from pipeline.steps.checking import now
from pipeline.steps.importing import read_imported
from pipeline.steps.judging import fuse_versions
from pipeline.steps.labeling_server import upload_round
from pipeline.steps.outgoing import Proposed, export_round
from pipeline.stores.versions import Version, row_frame
from pipeline.tasks.checking import keep_buildings, open_workspace_versions
from pipeline.tasks.learning import LoadLabels
from pipeline.tasks.mapping import AggregateImage
from pipeline.tasks.selecting import RoundStep, SelectTiles, held_out_of, versions_to_fuse
from pipeline.tasks.sources import SourceLabels
from pipeline.tasks.step import Step, digests

logger = logging.getLogger("luigi-interface")


class ExportReview(RoundStep):
    """`review/round_<n>/`: what people look at, for QGIS, Label Studio and CVAT; never written twice."""

    @property
    def tiles(self) -> SelectTiles:
        """The tiles."""
        return SelectTiles(round=self.round)

    @property
    def evaluation(self) -> list[AggregateImage]:
        """The labelled images that no network learns from, on which rounds are compared."""
        images = [name for name in self.workspace.images_of("test") if SourceLabels(image_id=name).found]
        return [AggregateImage(image_id=image_id) for image_id in images]

    @property
    def labels(self) -> dict[str, LoadLabels]:
        """By image, the labels there are."""
        labelled = [name for name in self.images if SourceLabels(image_id=name).found]
        return {image_id: LoadLabels(image_id=image_id) for image_id in labelled}

    def requires(self) -> list[Step]:
        """The tiles, the maps and labels of their images, and what is compared between rounds."""
        self.check_out(*range(1, self.round))
        return [self.tiles, *self.tiles.buildings, *self.evaluation, *self.labels.values()]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The tiles, and by image its buildings and its labels."""
        found = [(task.image_id, task.digest) for task in (*self.tiles.buildings, *self.evaluation)]
        labels = [(image_id, task.digest) for image_id, task in self.labels.items()]
        return digests(self.tiles) | {"buildings": dict(found), "labels": dict(labels)}

    def output(self) -> luigi.LocalTarget:
        """What went out."""
        return luigi.LocalTarget(str(self.place / "round.json"))

    def run(self) -> None:
        """Keeps the proposals as versions, and writes them for every tool."""
        with self.making(self.place) as folder:
            exported = {task.image_id: self._propose(task) for task in self.tiles.buildings}
            round_ = self._round({image_id: names for image_id, (_, names) in exported.items()})
            images = {image_id: proposed for image_id, (proposed, _) in exported.items()}
            export_round(round_, images, settings.Imagery().rules(Imagery), folder, self.progress)
            if url := settings.Review().label_studio_url:
                project = upload_round(folder, url, f"{self.workspace.root.name}, round {self.round}")
                (folder / "label_studio" / "project.json").write_text(json.dumps({"project": project}))
        logger.info(
            "%s: %d tiles are in %s; put what comes back into its folder returned",
            self,
            len(round_.tiles),
            self.place,
        )

    def _propose(self, buildings: AggregateImage) -> tuple[Proposed, Names]:
        """What people are shown of an image, and the versions that it is made from."""
        image_id, made_at, store = buildings.image_id, now(), open_workspace_versions(self.workspace)
        found = self._found(buildings)
        base = self._base(image_id, made_at)
        rows = propose(
            store.read(image_id, base) if base else None,
            base or "",
            store.read(image_id, found),
            found,
            self.round,
            made_at,
        )
        proposals = f"proposals_{self.round:03d}-{settings.digest(base, found, made_at)}"
        store.add(image_id, Version(proposals, "proposed", proposals, self.round, made_at), rows)
        source = buildings.tiles.image.source
        return Proposed(source, store.read(image_id, proposals)), Names(proposals, base, found)

    def _found(self, buildings: AggregateImage) -> str:
        """Name of the version that holds what the network finds in an image, or an ensemble with it."""
        image_id, store = buildings.image_id, open_workspace_versions(self.workspace)
        mine = keep_buildings(buildings, self.round)
        others = versions_to_fuse(store, image_id, mine)
        if not others:
            return mine
        names = [mine, *others]
        found = f"ensemble-{settings.digest(names)}"
        version = Version(found, "ensemble", settings.digest(names), self.round, now())
        rules, grid = settings.Aggregation().rules(MergeRules), buildings.tiles.read().grid
        fuse_versions(image_id, names, version, store, grid, settings.Labels().names, rules)
        return found

    def _base(self, image_id: str, made_at: str) -> str | None:
        """Name of the version that holds the image's labels; None where there are none."""
        if image_id not in self.labels:
            return None
        task, store = self.labels[image_id], open_workspace_versions(self.workspace)
        if task.labels.corrected:
            return read_imported(task.labels.corrected.parents[1] / "imported.json").versions[image_id]
        name = f"labels-{task.digest}"
        area, labels = task.labels.area, task.store.read_labels(image_id)
        rows = row_frame(
            labels.geometry.values,
            labels.crs,
            category=labels["category"].tolist(),
            file=task.labels.source.name,
            made_at=made_at,
        )
        ground = read_area(area, labels.crs) if area else None
        store.add(image_id, Version(name, "drawn", task.digest, 0, made_at, ground), rows)
        return name

    def _round(self, names: Mapping[str, Names]) -> Round:
        queue = Queue.model_validate_json(self.tiles.queue.read_bytes())
        held_out = held_out_of(self.images)
        evaluated = {task.image_id: self._found(task) for task in self.evaluation}
        evaluated |= {image_id: names[image_id].found for image_id, ground in held_out.items() if ground}
        grids = {task.image_id: task.tiles.read().grid for task in self.tiles.buildings}
        return Round(
            round=self.round,
            exported_at=now(),
            categories=list(settings.Labels().names),
            tiles=queue.tiles,
            grids=grids | {task.image_id: task.tiles.read().grid for task in self.evaluation},
            proposals={image_id: one.proposals for image_id, one in names.items()},
            bases={image_id: one.base for image_id, one in names.items() if one.base},
            evaluated=evaluated,
            held_out=held_out,
        )


class Names(NamedTuple):
    """The versions behind what people are shown of an image."""

    proposals: str
    base: str | None
    """Of its labels; None where there are none."""
    found: str
    """Of the buildings that networks find."""
