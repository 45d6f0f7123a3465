"""The tiles of a round, what is shown in them, and what people say of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

import shapely
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.errors import LabelError
from pipeline.schema import Artifact, Grid, Versioned, Window

UNKNOWN = "unknown"
"""What tools call a building without a known condition: they ask for some label."""

FARTHEST = 1e6
"""From a picture's corner, in its pixels or in percent: nobody draws there, and areas stay numbers."""
Coordinate = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]


def _in_utc(told: str) -> str:
    """A time as it sorts beside others, whatever the zone that it was told in."""
    try:
        moment = datetime.fromisoformat(told.strip())
    except ValueError as error:
        raise ValueError("not a date and time, as 2026-01-31T12:00:00Z") from error
    moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    return moment.isoformat(timespec="microseconds")


Moment = Annotated[str, AfterValidator(_in_utc)]
"""ISO 8601, in UTC where no zone is told."""


class Answer(BaseModel):
    """Base of what the tools of others write: of their fields those that are read, the rest is theirs."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class QueuedTile(Artifact):
    """A tile that somebody is asked to look at."""

    image_id: str
    tile_id: str
    window: Window
    uncertainty: float
    """How unsure the networks are of it, see `pipeline.review.uncertainty`."""
    reason: Literal["uncertain", "random"]

    @property
    def name(self) -> str:
        """Stem of its chip's file name."""
        return f"{self.image_id}__{self.tile_id}"


class Queue(Versioned):
    """The tiles of a round in the order to look at them (`review/round_<n>/queue.json`)."""

    round: int = Field(ge=1)
    candidates: int
    """Tiles they were chosen from."""
    tiles: list[QueuedTile]


class Round(Versioned):
    """A round as it went out (`review/round_<n>/round.json`); never changed while people work on it."""

    round: int = Field(ge=1)
    exported_at: str
    categories: list[str]
    tiles: list[QueuedTile]
    grids: dict[str, Grid]
    """By image."""
    proposals: dict[str, str]
    """By image, the version that holds what people are shown."""
    bases: dict[str, str]
    """By image, the version of the labels that there were; images without labels have none."""
    evaluated: dict[str, str]
    """By image with labels, the version of the buildings that networks found, for comparing rounds."""
    held_out: dict[str, list[Window]]
    """By training image, the ground that no round ever learns from."""

    def tile(self, name: str) -> QueuedTile | None:
        """The tile whose chip has this name."""
        return next((tile for tile in self.tiles if tile.name == name), None)

    def category(self, said: object, fault: str, where: object) -> str | None:
        """The category that people mean; None for a building of unknown condition.

        Args:
            said: what they call it.
            fault: what is wrong where that is none, as a sentence without its full stop.
            where: the file that says so.

        Raises:
            LabelError: it is none of the round's.
        """
        if said == UNKNOWN:
            return None
        if not isinstance(said, str) or said not in self.categories:
            remedy = f"The categories are {', '.join(self.categories)}, and {UNKNOWN}."
            raise LabelError(fault, where=where, found=said, remedy=remedy)
        return said


class Shown(NamedTuple):
    """What a tile shows of a proposal."""

    row_id: int
    polygon_px: shapely.Polygon
    """Inside the tile, image pixels."""
    category: str | None
    score: float
    """NaN for what a person drew."""
    source: str
    """Network, person or file."""
    visible_share: float
    """Area inside the tile over the whole, in (0, 1]."""


class ReviewedBuilding(NamedTuple):
    """A building as a person left it."""

    polygon_px: shapely.Polygon
    """Image pixels; of chips the part that lies in the tile."""
    category: str | None
    proposal: int | None
    """Row of the proposal it was made from; None where the tool does not say, or for a new one."""
    seconds: float
    """Spent on it; NaN where nobody counted."""


class TileReview(NamedTuple):
    """What one person made of one tile."""

    image_id: str
    tile_id: str
    person: str
    finished_at: str
    """ISO 8601 in UTC, as `Moment`; empty where the tool does not say."""
    file: str
    """Where it was read from."""
    seconds: float
    """Spent on the tile; NaN where nobody counted."""
    clipped: bool
    """Whether the person saw a chip, on which buildings end at the tile's edge."""
    buildings: list[ReviewedBuilding]
