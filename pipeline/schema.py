"""What each artifact contains: one definition that writers, readers, docs and tests share.

Frames: `_px` fields are full-image pixels (x = column, y = row, integers at pixel edges),
`_tile_px` the same relative to a tile's top-left corner, `_crs` the image's own CRS.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

SCHEMA_VERSION = 1
"""Raised whenever an artifact changes in a way that an older reader would misread."""
DETECTIONS_VERSION = 2
"""The same of per-tile detections, which others than this project may write."""
EVALUATION_VERSION = 3
"""The same of scores, whose labels are cut to the image."""

MergeStatus = Literal["single", "duplicate", "stitched", "fragment"]
"""single: seen by one tile; duplicate: seen whole by one tile, and others agree; stitched: put together
from parts no tile saw whole; fragment: cut by a tile's edge without a counterpart beyond it."""


DateSource = Literal["image", "file", "nobody"]
"""Who says when an image was taken; see `Grid.observed_by`."""

RegularizeStatus = Literal["right_angles", "circle", "raw_irregular", "raw_crowded", "raw"]
"""right_angles, circle: the published outline is regular; raw_irregular: no regular outline is close enough
to the one found, which is published; raw_crowded: one is, but would overlap a neighbour; raw: regularising
is off."""


class Window(NamedTuple):
    """A rectangle of an image in whole pixels, as rasterio orders it."""

    col_off: int
    row_off: int
    width: int
    height: int


class Artifact(BaseModel):
    """Base of all artifacts: unknown keys and numbers without a value are refused, instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Versioned(Artifact):
    """Base of artifacts that are files of their own: those of another schema version are refused."""

    schema_version: int = SCHEMA_VERSION

    @field_validator("schema_version")
    @classmethod
    def _is_ours(cls, version: int) -> int:
        if version != (ours := cls.model_fields["schema_version"].default):
            raise ValueError(f"schema version {version} instead of {ours}")
        return version


class Stretch(Artifact):
    """The linear map from source values to uint8, per band: 0 at `low`, 255 at `high`."""

    low: list[float]
    high: list[float]


class Grid(Artifact):
    """The georeferencing of an image and how its pixels are read.

    `transform` is rasterio's (a, b, c, d, e, f); `ground_m_per_px` the true ground length in
    metres of one pixel's width and height at the image's centre, whatever unit the CRS has.
    """

    width: int = Field(gt=0)
    height: int = Field(gt=0)
    crs: str
    """'EPSG:<code>' where the CRS has one, else WKT 2."""
    srid: int | None
    """The EPSG code, for SQL; None where the CRS has none."""
    transform: tuple[float, float, float, float, float, float]
    ground_m_per_px: tuple[float, float]
    bands: list[int]
    """1-based source bands read as red, green, blue."""
    stretch: Stretch | None
    """None: the source is uint8 and read as it is."""
    observed: str
    """When the imagery was taken (its TIFFTAG_DATETIME), else the file's modification time; ISO 8601 in UTC.
    TIFF states no zone and its time is taken for UTC: one written in local time is off by the zone's hours.
    The `timestamp` of every building found in it."""
    observed_by: DateSource = "nobody"
    """Source of `observed`: the `image` itself; its `file`, whose modification time is the latest possible
    date; or `nobody` if unknown, as in artifacts written before this field existed."""

    @property
    def date(self) -> str:
        """When the imagery was taken, in words that claim no more than is known."""
        if self.observed_by == "nobody":
            return "unknown"
        known = self.observed_by == "image"
        return f"taken {self.observed}" if known else f"unknown; its file last changed {self.observed}"


class Tile(Artifact):
    """A window of an image that contains valid pixels.

    As a feature of `tiles.geojson` it has further properties, which are derived from these.
    """

    model_config = ConfigDict(extra="ignore")

    tile_id: str = Field(pattern=r"^r\d{4,}_c\d{4,}$")
    window: Window
    valid_share: float = Field(gt=0, le=1)


class TileIndex(Versioned):
    """The tiles of one image, row by row (`tiles.geojson`)."""

    image_id: str
    grid: Grid
    tile_size: int
    overlap: int
    empty_tiles: int
    """Tiles of the full grid left out because they hold no valid pixel."""
    tiles: list[Tile]


class CoarseTile(Artifact):
    """A window of an image read from its overviews, around a building that is larger than a tile."""

    tile_id: str = Field(pattern=r"^large_\d{4,}$")
    window: Window
    factor: int = Field(ge=2)
    """Image pixels per network input pixel, along each axis."""


class CoarseIndex(Versioned):
    """The coarser windows of one image, from top to bottom (`index.json`), beside their detections."""

    image_id: str
    tiles: list[CoarseTile]


class Item(Artifact):
    """A label clipped to one tile.

    `polygons` are MultiPolygon coordinates in tile pixels: parts, each an exterior ring and its
    holes, rings closed. `category` is None for a building of unknown condition.
    """

    label_id: int
    category: str | None
    polygons: list[list[list[tuple[float, float]]]]
    visible_share: float = Field(gt=0, le=1)
    """Area inside the tile over the label's whole area."""


class TileItems(Versioned):
    """The items of one tile (`items/<tile_id>.json`), beside its raster in `tiles/`."""

    image_id: str
    tile_id: str
    window: Window
    items: list[Item]


class Pair(Artifact):
    """A training tile, as `tiles/<tile_id>.tif` and `items/<tile_id>.json`."""

    tile_id: str
    window: Window
    label_ids: list[int]
    """Labels that the tile shows in whole or in part."""
    reviewed_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the tile that was reviewed."""


class PairIndex(Versioned):
    """The training pairs of one image (`pairs.json`), and its georeferencing."""

    image_id: str
    crs: str
    transform: tuple[float, float, float, float, float, float]
    pairs: list[Pair]
    held_out: list[Window] | None = None
    """Windows that stay held out because they were when a review began; None to choose them anew."""


class ModelTag(Artifact):
    """Which network made a detection: its name and the digest of its weights."""

    name: str
    weights: str


Probability = Annotated[float, Field(ge=0, le=1)]
"""In [0, 1]."""


@dataclass(slots=True, config=Artifact.model_config | {"strict": True})
class Detection:  # not a model: reading those takes a third longer, and there are many
    """One network output.

    Rings are flat lists x, y, x, y, ... of three points or more, the first not repeated at the end, as COCO
    has them. They are in image pixels from the upper left corner of the tile's window.
    """

    scores: list[Probability]
    """Probability of each category, in the order of `categories`; their sum is at most 1."""
    polygon: list[float]
    """The exterior ring, in whole pixels if a mask's cells are several pixels wide, else to tenths."""
    holes: list[list[float]] = Field(default_factory=list)
    """Interior rings; optional."""
    ambiguity: Probability | None = None
    """Uncertainty of the mask's outline, see `pipeline.vectorize.mask_ambiguities`; optional."""


class TileDetections(Versioned):
    """The detections of one tile (`detections/<tile_id>.json`): any predictor may write it."""

    model_config = ConfigDict(strict=True)

    schema_version: int = DETECTIONS_VERSION
    image_id: str
    tile_id: str
    window: Window
    """The tile's, in full-image pixels."""
    crs: str
    transform: tuple[float, float, float, float, float, float]
    """The image's."""
    categories: list[str]
    """In the order of each detection's scores."""
    model: ModelTag
    created: str
    detections: list[Detection]
