"""What a label file's attributes are taken to mean, where the settings do not fit it."""

import configparser
import json

import geopandas
import pytest
import shapely

from pipeline.errors import LabelError
from pipeline.labels import LabelRules, category_indices, suggest_settings

TIN = (("tin", ("tin",)), ("other", ("thatch",)))


def file_of(**columns):
    rows = len(next(iter(columns.values())))
    squares = [shapely.box(i, 0, i + 1, 1) for i in range(rows)]
    return geopandas.GeoDataFrame(columns, geometry=squares, crs="EPSG:32737")


def suggested(frame, **rules):
    text = suggest_settings(frame, LabelRules(**rules))
    config = configparser.ConfigParser()
    config.read_string(text)
    return dict(config["Labels"]) if text else None


def test_a_file_that_the_settings_read_gets_no_suggestion():
    assert suggested(file_of(condition=["Complete", "ruin", None])) is None
    assert suggested(file_of(name=["a", "b"]), condition_attribute="", categories=(("hut", ()),)) is None
    assert suggested(file_of(name=["a", "b"])[:0]) is None, "a file without rows says nothing"


def test_the_likeliest_attribute_and_its_spellings():
    frame = file_of(
        id=[1, 2, 3, 4, 5, 6],
        owner=["A", "B", "C", "D", "E", "F"],
        storeys=["1", "2", "1", "2", "1", "1"],
        roof=["Tin", "tin", "thatch", None, "tin", "Thatch"],
    )
    found = suggested(frame)
    assert found["condition_attribute"] == "roof"
    assert json.loads(found["categories"]) == {"tin": ["tin"], "thatch": ["thatch"]}


def test_known_attribute_unknown_spellings():
    found = suggested(file_of(condition=["done", "half-way", "done"]))
    assert found["condition_attribute"] == "condition"
    assert json.loads(found["categories"]) == {"done": ["done"], "half_way": ["half-way"]}


def test_a_file_without_such_an_attribute_becomes_one_class():
    found = suggested(file_of(id=[1, 2, 3]))
    assert found == {"condition_attribute": "", "categories": '{"building": []}'}


def test_suggested_settings_read_the_file():
    frame = file_of(state=["walls only", "finished", "Finished", None])
    found = suggested(frame)
    pairs = tuple((name, tuple(texts)) for name, texts in json.loads(found["categories"]).items())
    rules = LabelRules(condition_attribute=found["condition_attribute"], categories=pairs)
    walls, finished, spelt_otherwise, nothing = category_indices(frame, rules)
    assert finished == spelt_otherwise != walls and nothing == -1


def test_the_error_of_a_missing_attribute_names_the_likely_one():
    frame = file_of(roof=["tin", "tin", "thatch"], number=[1, 2, 3])
    with pytest.raises(LabelError, match=r"to roof perhaps \(tin 2, thatch 1\)"):
        category_indices(frame, LabelRules(categories=TIN))
