"""From images and labels to a network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import luigi

from pipeline import settings
from pipeline.atomic import write_atomic
from pipeline.catalogue import Entry, read_catalogue
from pipeline.errors import ArtifactError, SettingsError
from pipeline.inputs import fingerprint
from pipeline.labels import read_area
from pipeline.pairs import PairRules
from pipeline.raster import Imagery, TiledImage
from pipeline.review.corrected import read_marks
from pipeline.schema import TileIndex
from pipeline.steps.labels import load_labels
from pipeline.steps.pairs import cut_tiles, tile_frame
from pipeline.steps.tiles import tile_image
from pipeline.steps.training import end_training, train_network
from pipeline.stores import LabelStore, open_store
from pipeline.targets import LabelStoreTarget
from pipeline.tasks.gpu import GpuStep
from pipeline.tasks.sources import SourceImage, SourceLabels
from pipeline.tasks.step import ImageStep, Step, digests
from pipeline.tiling import read_tile_index, write_tile_index

logger = logging.getLogger("luigi-interface")


class TileImage(ImageStep):
    """`tiles.geojson`: every tile of an image that holds valid pixels."""

    sections = (settings.Imagery, settings.Tiling)

    @property
    def image(self) -> SourceImage:
        """The image that is tiled."""
        return SourceImage(image_id=self.image_id)

    def requires(self) -> SourceImage:
        """The image."""
        return self.image

    def output(self) -> luigi.LocalTarget:
        """The index."""
        return luigi.LocalTarget(str(self.folder("tiles") / "tiles.geojson"))

    def run(self) -> None:
        """Looks for valid pixels and writes the index."""
        with self.making(self.folder("tiles")) as folder:
            index = tile_image(
                self.image_id,
                self.image.source,
                settings.Imagery().rules(Imagery),
                settings.Tiling(),
                self.progress,
            )
            write_tile_index(folder / "tiles.geojson", index)

    @property
    def tiled(self) -> TiledImage:
        """The image in the frame of its tiles.

        Raises:
            ArtifactError: as `read`.
        """
        return TiledImage(self.read(), self.image.source, settings.Imagery().rules(Imagery))

    def read(self) -> TileIndex:
        """The tiles.

        Raises:
            ArtifactError: the index is damaged, of another version, or of another image.
        """
        index = read_tile_index(self.output().path)
        if index.image_id != self.image_id:
            raise ArtifactError(
                "the tiles of another image",
                where=self.output().path,
                found=index.image_id,
                remedy="Remove the file and run TileImage, which makes it again.",
            )
        return index


class LoadLabels(ImageStep):
    """The cleaned labels of an image as rows of the label store, and the report of the cleaning."""

    sections = (settings.Labels,)

    @property
    def labels(self) -> SourceLabels:
        """The label file."""
        return SourceLabels(image_id=self.image_id)

    @property
    def tiles(self) -> TileImage:
        """The tiles, whose index tells the image's frame."""
        return TileImage(image_id=self.image_id)

    def requires(self) -> list[Step]:
        """The label file and the image's frame."""
        return [self.labels, self.tiles]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The label file and the image: labels are judged against its frame, not against its tiles."""
        return digests(self.labels, self.tiles.image)

    @property
    def store(self) -> LabelStore:
        """The store that holds the rows."""
        return open_store(settings.Labels().database, self.folder("labels"))

    def output(self) -> LabelStoreTarget:
        """The rows."""
        return LabelStoreTarget(self.store, self.image_id, self.digest)

    def run(self) -> None:
        """Cleans the labels, reports on them and replaces the image's rows."""
        # The digest of what is read, not of what may lie there by the time it is stored.
        grid, made_from = self.tiles.read().grid, self.digest
        report_file = self.folder("labels") / "report.json"
        with self.finishing(report_file.with_name("run.json"), lambda: [report_file]) as counts:
            labels, report = load_labels(
                self.labels.source, self.labels.area, grid, settings.Labels().label_rules(), self.progress
            )
            logger.info("labels of %s\n%s", self.image_id, report.table())
            write_atomic(report_file, report.model_dump_json(indent=1))
            counts |= {"rows": report.source_rows, "labels": report.labels}
        self.store.replace_labels(self.image_id, made_from, labels, report.model_dump())


class CutTiles(ImageStep):
    """The training pairs of an image: a raster and the items of every chosen tile."""

    sections = (settings.Pairs,)

    @property
    def tiles(self) -> TileImage:
        """The tiles to choose from."""
        return TileImage(image_id=self.image_id)

    @property
    def labels(self) -> LoadLabels:
        """The labels to clip."""
        return LoadLabels(image_id=self.image_id)

    def requires(self) -> list[Step]:
        """Tiles and labels."""
        return [self.tiles, self.labels]

    def output(self) -> luigi.LocalTarget:
        """The list of the pairs."""
        return luigi.LocalTarget(str(self.folder("pairs") / "pairs.json"))

    def run(self) -> None:
        """Asks the store once for the items of all tiles, and cuts the chosen ones out."""
        with self.making(self.folder("pairs")) as folder:
            image, area, corrected = self.tiles.tiled, self.labels.labels.area, self.labels.labels.corrected
            items = self.labels.store.items_in_tiles(
                self.image_id, tile_frame(image.index), self.labels.digest
            )
            ground = read_area(area, image.grid.crs) if area else None
            cut_tiles(
                image,
                items,
                ground,
                settings.Pairs().rules(PairRules),
                folder,
                self.progress,
                read_marks(corrected) if corrected else None,
            )


class TrainMaskRCNN(GpuStep):
    """`weights.h5` and `history.json`, learnt from every training image."""

    sections = (settings.Training,)
    runs_by = settings.Training

    @property
    def images(self) -> list[str]:
        """Ids of the training images: those named, else all labelled ones that are called so.

        Raises:
            SettingsError: there are none.
        """
        listed = [entry.image_id for entry in self._catalogue.values() if entry.split == "training"]
        labelled = {image_id for image_id in listed if SourceLabels(image_id=image_id).found}
        images = list(settings.Training().images) or sorted(
            labelled | set(self.workspace.images_of("training")) | set(self.reviewed)
        )
        if not images:
            raise SettingsError(
                "nothing to learn from",
                where="[Training] images",
                remedy="Put labelled images into input/training, or give [Inference] weights.",
            )
        return images

    @property
    def held_out(self) -> list[str]:
        """Ids of the images held out whole: those named, else the catalogue's while others are left."""
        images, entries = self.images, self._catalogue
        listed = [name for name in images if name in entries and entries[name].held_out]
        return list(settings.Training().validation_images) or (listed if listed != images else [])

    @property
    def _catalogue(self) -> dict[str, Entry]:
        return read_catalogue(settings.Storage().catalogue)

    @property
    def reviewed(self) -> list[str]:
        """Ids of the images that nobody had labelled before a review."""
        images = self.workspace.images_of("review")
        return [image_id for image_id in images if SourceLabels(image_id=image_id).found]

    @property
    def pairs(self) -> list[CutTiles]:
        """The training pairs of each image."""
        return [CutTiles(image_id=image_id) for image_id in self.images]

    def requires(self) -> list[CutTiles]:
        """The training pairs."""
        return self.pairs

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The training pairs by image, the images held out, and the weights that learning starts from."""
        initial = settings.Training().initial_weights
        given: dict[str, Any] = {"held_out": self.held_out} if self.held_out else {}
        if Path(initial).is_file():
            given["initial_weights"] = fingerprint(initial)
        return {pairs.image_id: pairs.digest for pairs in self.pairs} | given

    @property
    def folder(self) -> Path:
        """Where the network and its checkpoint lie."""
        return self.workspace.network(self.digest)

    @property
    def weights(self) -> Path:
        """The network."""
        return self.folder / "weights.h5"

    @property
    def history(self) -> Path:
        """What every epoch brought."""
        return self.folder / "history.json"

    def output(self) -> list[luigi.LocalTarget]:
        """The network and how it was learnt."""
        paths = (self.weights, self.history, self.folder / "run.json")
        return [luigi.LocalTarget(str(path)) for path in paths]

    def run(self) -> None:
        """Learns; a killed training resumes from its checkpoint in the same folder."""
        made = (self.weights, self.folder / "history.json")
        with self.finishing(self.folder / "run.json", lambda: made) as counts:
            counts |= train_network(
                [Path(pairs.output().path).parent for pairs in self.pairs],
                settings.Labels().names,
                settings.Training(),
                self.held_out,
                self.folder,
                self.progress,
            )
        # Without a record the task runs again, and would learn anew.
        end_training(self.folder)
