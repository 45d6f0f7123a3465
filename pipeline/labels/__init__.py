"""Label files, and the clean labels they hold: every row of a file is kept or set aside for a stated reason.

People draw labels, so their files are dirty: rings that cross themselves, buildings drawn twice,
missing conditions, swapped axes. `clean_labels` repairs what has one obvious repair, sets the
rest aside, and `LabelReport` counts both; nothing vanishes.
"""

from pipeline.labels.cleaning import clean_labels
from pipeline.labels.conditions import category_indices
from pipeline.labels.files import read_area, read_label_file
from pipeline.labels.rules import NOTED, SET_ASIDE, LabelReport, LabelRules
from pipeline.labels.suggestion import suggest_settings

__all__ = [
    "NOTED",
    "SET_ASIDE",
    "LabelReport",
    "LabelRules",
    "category_indices",
    "clean_labels",
    "read_area",
    "read_label_file",
    "suggest_settings",
]
