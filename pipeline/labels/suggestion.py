"""What a label file's attributes may mean, where the settings do not fit it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

import geopandas as gpd

from pipeline.labels.conditions import MOST_CATEGORIES, condition_attributes, spelling
from pipeline.labels.rules import LabelRules, fold


def suggest_settings(frame: gpd.GeoDataFrame, rules: LabelRules) -> str:
    """The section `[Labels]` of luigi.cfg that would read a label file; empty where the present one does.

    One category per different value: which of them mean the same only the person who drew them knows.

    Args:
        frame: rows of a label file.
        rules: the settings as they are.
    """
    attribute = rules.condition_attribute
    if frame.empty or (not attribute and len(rules.categories) == 1):
        return ""
    if attribute not in frame.columns:
        attribute = next(iter(condition_attributes(frame)), "")
    elif not (values := _values(frame, attribute)) or any(fold(text) in rules.category_of for text in values):
        return ""
    if not attribute:
        return _section("", {"building": []}) if rules.condition_attribute else ""
    return _section(attribute, _grouped(_values(frame, attribute)))


def _values(frame: gpd.GeoDataFrame, attribute: str) -> Counter[str]:
    return Counter(text for text in map(spelling, frame[attribute]) if text)


def _grouped(values: Counter[str]) -> dict[str, list[str]]:
    """Category name to its spellings; spellings that differ in case alone are one."""
    groups: dict[str, list[str]] = {}
    for text, _ in values.most_common(MOST_CATEGORIES):
        name = re.sub(r"\W+", "_", fold(text)).strip("_") or "category"
        groups.setdefault(name, [])
        if fold(text) not in map(fold, groups[name]):
            groups[name].append(text)
    return groups


def _section(attribute: str, categories: Mapping[str, list[str]]) -> str:
    text = json.dumps(categories, ensure_ascii=False)
    return f"[Labels]\ncondition_attribute = {attribute}\ncategories = {text}\n"
