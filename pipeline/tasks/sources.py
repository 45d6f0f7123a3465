"""What people give: images, labels, weights. Complete when there; running one says what is missing."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import settings
from pipeline.catalogue import Entry, read_catalogue
from pipeline.errors import SourceError
from pipeline.inputs import fingerprint
from pipeline.steps.fetching import fetch_image
from pipeline.targets import SourceTarget
from pipeline.tasks.step import ImageStep, Step


class SourceImage(ImageStep):
    """An orthomosaic: a file in input/<split>/images, or an address in the catalogue."""

    @property
    def found(self) -> Path | str | None:
        """Path or URL of the image; None when there is none."""
        return self.workspace.find_image(self.image_id) or (self._entry.url if self._entry else None)

    @property
    def credit(self) -> str:
        """Whom the imagery is owed to, as the catalogue says."""
        return self._entry.credit if self._entry else ""

    @property
    def _entry(self) -> Entry | None:
        return read_catalogue(settings.Storage().catalogue).get(self.image_id)

    @property
    def source(self) -> Path | str:
        """Path or URL of the image.

        Raises:
            SourceError: there is none.
        """
        if self.found is not None:
            return self.found
        close = difflib.get_close_matches(self.image_id, self.workspace.images_everywhere(), n=1)
        raise SourceError(
            "no such image in input/*/images",
            where=self.workspace.root,
            found=self.image_id,
            remedy=f"Did you mean {close[0]}?"
            if close
            else f"Put {self.image_id}.tif into input/test/images.",
        )

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Fingerprint of the file.

        Raises:
            SourceError: there is none: what needs the image is refused before anything runs.
        """
        return {"image": fingerprint(self.source)}

    def output(self) -> SourceTarget:
        """The file."""
        return SourceTarget(self.found)

    def run(self) -> None:
        """Says where the image should have been."""
        _ = self.source


class FetchImage(ImageStep):
    """An image of the catalogue as a file in input/<split>/images, from where it is read from then on."""

    @property
    def entry(self) -> Entry:
        """What the catalogue says of the image.

        Raises:
            SourceError: nothing.
        """
        entries = read_catalogue(settings.Storage().catalogue)
        if self.image_id in entries:
            return entries[self.image_id]
        raise SourceError(
            "no such image in the catalogue",
            where=f"[Storage] catalogue = {settings.Storage().catalogue}",
            found=self.image_id,
            remedy="Name a catalogue that lists it, as in --Storage-catalogue challenge.",
        )

    def output(self) -> SourceTarget:
        """The file."""
        return SourceTarget(self.workspace.find_image(self.image_id))

    def run(self) -> None:
        """Downloads the image, going on where an earlier download was broken off, and checks it."""
        folder = self.workspace.root / "input" / self.entry.split / "images"
        with self._watched(folder):
            fetch_image(self.entry, folder / f"{self.image_id}.tif", self.progress)


class SourceLabels(ImageStep):
    """The labels of an image: a vector file in input/<split>/labels, or what a review made of it."""

    @property
    def corrected(self) -> Path | None:
        """Path of the labels as people corrected them last; None where nobody did, or it is not to count."""
        counts = settings.Review().labels == "newest"
        return self.workspace.find_corrected(self.image_id) if counts else None

    @property
    def found(self) -> Path | None:
        """Path of the label file; None when there is none."""
        return self.corrected or self.workspace.find_labels(self.image_id)

    @property
    def source(self) -> Path:
        """Path of the label file.

        Raises:
            SourceError: there is none.
        """
        if self.found is not None:
            return self.found
        raise SourceError(
            "no label file in input/*/labels",
            where=self.workspace.root,
            found=self.image_id,
            remedy=f"Put {self.image_id}.geojson (or .gpkg, .shp, .fgb) into input/training/labels.",
        )

    @property
    def area(self) -> Path | None:
        """Path of the polygons within which the labels are complete; None for the whole image."""
        if self.corrected:
            return self.workspace.find_corrected_area(self.image_id)
        return self.workspace.find_area(self.image_id)

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Fingerprints of the label file and of its area."""
        paths = {"labels": self.found, "area": self.area}
        return {name: fingerprint(path) for name, path in paths.items() if path}

    def output(self) -> SourceTarget:
        """The file."""
        return SourceTarget(self.found)

    def run(self) -> None:
        """Says where the labels should have been."""
        _ = self.source


class SourceWeights(Step):
    """Given weights, used as they are."""

    @property
    def weights(self) -> Path:
        """The network."""
        return Path(settings.Inference().weights).absolute()

    @property
    def calibration(self) -> Path:
        """Temperature and thresholds; beside the weights if anywhere."""
        return self.weights.with_name("thresholds.json")

    @property
    def history(self) -> Path:
        """What every epoch brought; beside the weights if anywhere."""
        return self.weights.with_name("history.json")

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Fingerprints of both files."""
        paths = [path for path in (self.weights, self.calibration) if path.is_file()]
        return {path.name: fingerprint(path) for path in paths}

    def output(self) -> SourceTarget:
        """The file."""
        return SourceTarget(self.weights)

    def run(self) -> None:
        """Says that the weights are missing."""
        raise SourceError(
            "no such weights file",
            where="[Inference] weights",
            found=str(self.weights),
            remedy="Check the path, or leave it empty to train a network.",
        )
