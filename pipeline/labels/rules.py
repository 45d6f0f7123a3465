"""How label files are read, and what became of their rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pydantic import model_validator

from models.ranges import Amount, Natural, Share
from pipeline.errors import SettingsError
from pipeline.rules import Rules
from pipeline.schema import Artifact

SET_ASIDE = {
    "null_geometry": "geometry missing or unreadable",
    "empty_geometry": "geometry empty",
    "wrong_geometry_type": "point or line instead of a polygon",
    "non_finite_coordinates": "infinite or undefined coordinates",
    "unplaceable": "coordinates without a place in the image's CRS",
    "no_area": "no area left after repair",
    "below_min_area": "smaller than min_area_m2",
    "outside_image": "outside the image",
    "outside_labelled_area": "outside the labelled area",
    "duplicate": "drawn again over a label that was kept",
}
"""Why a row is set aside: rule and its words, in the order the rules are applied."""

NOTED = {
    "repaired": "invalid ring repaired",
    "several_parts": "several polygons, one label each",
    "collection": "collection, of which the polygons were kept",
    "z_dropped": "heights dropped",
    "partly_outside_image": "partly outside the image",
    "null_condition": "no condition",
    "unknown_condition": "condition of unknown spelling",
    "conflicting_condition": "drawn twice with different conditions, now unknown",
}
"""What is reported of rows without setting them aside."""


@dataclass(frozen=True)
class LabelRules(Rules):
    """How label files are read."""

    condition_attribute: str = "condition"
    """Name of the attribute that holds the condition; empty for files without one: their labels get the
    category if there is only one, and no category otherwise."""
    categories: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("foundation", ("Foundation",)),
        ("unfinished", ("Incomplete",)),
        ("completed", ("Complete",)),
    )
    """Pairs of a category and its spellings in label files, in class order; spellings are compared
    without case and surrounding blanks."""
    duplicate_iou: Share = 0.5
    """Intersection over union above which two labels are one building."""
    sliver_share: Share = 0.01
    """Share of a repaired ring's area below which one of its parts is a crossing's leftover and dropped."""
    min_area_m2: Amount = 0.0
    """Ground area below which a label is set aside, in square metres; 0 keeps all."""
    examples: Natural = 5
    """Row numbers listed as examples for each finding of the label report."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name for name, _ in self.categories]
        spellings = Counter(fold(text) for _, texts in self.categories for text in texts)
        twice = [text for text, count in spellings.items() if count > 1]
        if not names or len(set(map(str.lower, names))) < len(names) or not all(names) or twice:
            raise SettingsError(
                "categories must be named, differ in more than case, and share no spelling",
                where="categories",
                found=twice or names,
                remedy='Give each category its own spellings, as in {"completed": ["Complete"]}.',
            )

    @property
    def category_of(self) -> dict[str, str]:
        """Category by folded spelling."""
        return {fold(text): name for name, texts in self.categories for text in texts}


class LabelReport(Artifact):
    """What became of the rows of one label file. Row numbers count from 0 in file order.

    Raises:
        ValueError: the counts do not add up.
    """

    source_rows: int
    kept_rows: int
    set_aside: dict[str, int]
    """Rows by the rule (`SET_ASIDE`) that took their last polygon; with `kept_rows` all source rows."""
    noted: dict[str, int]
    """Rows by finding (`NOTED`); a row may have several."""
    examples: dict[str, list[int]]
    """First row numbers of each rule and finding."""
    source_categories: dict[str, int]
    """Rows of the file by category."""
    unknown_conditions: dict[str, int]
    """The most frequent spellings that stand for no category, and their rows."""
    duplicate_pairs: int
    axes_swapped: bool
    """Whether x and y were exchanged to bring the labels into the image."""
    labels: int
    categories: dict[str, int]
    """Labels by category."""
    unknown_labels: int
    """Labels without a category."""

    @model_validator(mode="after")
    def _adds_up(self) -> LabelReport:
        if self.source_rows != self.kept_rows + sum(self.set_aside.values()):
            raise ValueError("kept rows and rows set aside must add up to the source rows")
        if self.labels != self.unknown_labels + sum(self.categories.values()):
            raise ValueError("labels by category and without one must add up to the labels")
        return self

    def table(self) -> str:
        """The report as lines of text for a log."""
        lines = [f"{self.source_rows:>7}  rows", f"{self.kept_rows:>7}  kept"]
        for words, counts in ((SET_ASIDE, self.set_aside), (NOTED, self.noted)):
            title = "set aside" if words is SET_ASIDE else "noted"
            for rule, count in counts.items():
                rows = ", ".join(map(str, self.examples.get(rule, [])))
                more = ", ..." if count > len(self.examples.get(rule, [])) else ""
                lines.append(f"{count:>7}  {title}: {words[rule]} (rows {rows}{more})")
        lines.append(f"{self.labels:>7}  labels")
        lines += [f"{count:>7}    {name}" for name, count in self.categories.items()]
        lines.append(f"{self.unknown_labels:>7}    of unknown condition")
        if self.unknown_conditions:
            lines.append(f"         unknown spellings: {self.unknown_conditions}")
        if self.axes_swapped:
            lines.append("         x and y were swapped: as given, the labels lie outside the image")
        if not self.source_rows:
            lines.append("         the file is empty: it holds no building")
        if self.set_aside.get("outside_image") and not self.labels:
            lines.append("         no label lies in the image: is the file this image's, and its CRS right?")
        return "\n".join(lines)


def fold(text: str) -> str:
    """A spelling as it is compared: without case and surrounding blanks."""
    return text.strip().casefold()
