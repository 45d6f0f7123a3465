"""Which tiles people look at next."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import luigi
import numpy as np

from pipeline import settings
from pipeline.errors import SettingsError
from pipeline.inputs import fingerprint
from pipeline.review.proposals import pixels_of
from pipeline.review.rules import ReviewRules
from pipeline.review.uncertainty import committee_doubts
from pipeline.schema import Window
from pipeline.steps.importing import read_imported
from pipeline.steps.selecting import Reviewable, select_tiles
from pipeline.steps.training import held_out_ground
from pipeline.stores.versions import VersionStore
from pipeline.tasks.checking import keep_buildings, open_workspace_versions
from pipeline.tasks.detecting import detector, network
from pipeline.tasks.gpu import GpuStep
from pipeline.tasks.learning import TrainMaskRCNN
from pipeline.tasks.mapping import AggregateImage
from pipeline.tasks.parameters import Number
from pipeline.tasks.step import Step

logger = logging.getLogger("luigi-interface")


class RoundStep(Step):
    """A step of a review round."""

    round = Number(description="Number of the round, from 1.")

    @property
    def place(self) -> Path:
        """The round's folder."""
        return self.workspace.round_folder(self.round)

    @property
    def images(self) -> list[str]:
        """Ids of the images that people look at.

        Raises:
            SettingsError: there are none.
        """
        found: list[str] = list(settings.Review().images)
        found = found or self.workspace.images_of("review") or self.workspace.images_of("training")
        if not found:
            raise SettingsError(
                "nothing to look at",
                where="[Review] images",
                found=found,
                remedy="Put images into input/review, or name some.",
            )
        return found

    def check_out(self, *numbers: int) -> None:
        """Checks that rounds have gone out, before anything is made that needs them.

        Raises:
            SettingsError: one has not, or this one is no round.
        """
        if self.round < 1:
            raise SettingsError(
                "rounds count from 1", where="round", found=self.round, remedy="Begin with 1."
            )
        out = self.rounds_with("round.json")
        if missing := sorted(set(numbers) - set(out)):
            raise SettingsError(
                f"round {missing[0]} has not gone out",
                where=self,
                remedy=f"Out so far: {', '.join(map(str, out)) or 'none'}. "
                f"ReviewRound --round {missing[0]} hands it out.",
            )

    @property
    def earlier(self) -> list[Path]:
        """What came back of earlier rounds, as far as it did."""
        numbers = [number for number in self.rounds_with("imported.json") if number < self.round]
        return [self.workspace.round_folder(number) / "imported.json" for number in numbers]

    def rounds_with(self, name: str) -> list[int]:
        """Numbers of the rounds whose folders hold a file of this name, from the first on."""
        folders = [folder for folder in self.workspace.rounds if (folder / name).is_file()]
        return [int(folder.name.removeprefix("round_")) for folder in folders]


class SelectTiles(GpuStep, RoundStep):
    """`queue.json`: the tiles of a round, by doubt, by difference and by chance."""

    sections = (settings.Review,)

    @property
    def buildings(self) -> list[AggregateImage]:
        """What networks find in each image."""
        return [AggregateImage(image_id=image_id) for image_id in self.images]

    def requires(self) -> list[Step]:
        """The buildings of every image, which bring tiles and detections along."""
        return [network(), *self.buildings]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The buildings, and what people have looked at so far."""
        made = {task.image_id: task.digest for task in self.buildings}
        return made | {"round": self.round} | {path.parent.name: fingerprint(path) for path in self.earlier}

    @property
    def queue(self) -> Path:
        """The tiles."""
        return self.workspace.artifact("review", f"queue_{self.round:03d}", self.digest) / "queue.json"

    def output(self) -> luigi.LocalTarget:
        """The tiles."""
        return luigi.LocalTarget(str(self.queue))

    def run(self) -> None:
        """Ranks the tiles of every image together."""
        with self.making(self.queue.parent) as folder:
            reviewed, held_out = self._reviewed(), held_out_of(self.images)
            queue = select_tiles(
                [
                    self._image(one, reviewed.get(one.image_id, []), held_out.get(one.image_id, []))
                    for one in self.buildings
                ],
                self.round,
                settings.Review().rules(ReviewRules),
                detector().predictor,
                self.progress,
            )
            (folder / self.queue.name).write_text(queue.model_dump_json(indent=1))
        few = len(queue.tiles) < settings.Review().budget
        told = "; no other shares no pixel with these" if few else ""
        logger.info("%s: %d of %d tiles%s", self, len(queue.tiles), queue.candidates, told)

    def _reviewed(self) -> dict[str, list[Window]]:
        """By image, the tiles that people have looked at."""
        windows: dict[str, list[Window]] = {}
        for path in self.earlier:
            for tile in read_imported(path).tiles:
                windows.setdefault(tile.image_id, []).append(tile.window)
        return windows

    def _image(self, buildings: AggregateImage, reviewed: list[Window], held_out: list[Window]) -> Reviewable:
        shards, image_id = buildings.shards[0], buildings.image_id
        image = shards.tiles.tiled
        tiles = image.index
        doubts = np.zeros(len(tiles.tiles))
        store, mine = open_workspace_versions(self.workspace), keep_buildings(buildings, self.round)
        for other in versions_to_fuse(store, image_id, mine):
            rows, others = (store.read(image_id, name) for name in (mine, other))
            windows = [tile.window for tile in tiles.tiles]
            sides = pixels_of(rows, tiles.grid), pixels_of(others, tiles.grid)
            doubts += committee_doubts(windows, sides[0], rows["score"].to_numpy(), sides[1])
            doubts += committee_doubts(windows, sides[1], others["score"].to_numpy(), sides[0])
        return Reviewable(image, shards.detections, doubts, reviewed, held_out)


def versions_to_fuse(store: VersionStore, image_id: str, mine: str) -> list[str]:
    """Other networks' versions of an image's buildings that the settings name."""
    beginnings: tuple[str, ...] = tuple(settings.Review().ensemble)
    kept = [version.name for version in store.versions(image_id) if version.kind == "model"]
    return [name for name in kept if beginnings and name.startswith(beginnings) and name != mine]


def held_out_of(images: list[str]) -> dict[str, list[Window]]:
    """By training image among these, the ground that is never learnt from; nothing for a given network."""
    learner = network()
    if not isinstance(learner, TrainMaskRCNN):
        return {}
    training = settings.Training()
    folders = [Path(pairs.output().path).parent for pairs in learner.pairs]
    ground = held_out_ground(folders, learner.held_out, training.validation_share)
    return {image_id: windows for image_id, windows in ground.items() if image_id in images}
