"""The catalogue of images that are read in place."""

import csv

import pytest

from pipeline.catalogue import read_catalogue
from pipeline.errors import SettingsError


def test_the_challenge_has_its_22_images():
    entries = read_catalogue("challenge")
    assert len(entries) == 22
    assert {
        split: sum(entry.split == split for entry in entries.values())
        for split in ("training", "test", "final")
    } == {
        "training": 13,
        "test": 7,
        "final": 2,
    }
    assert entries["grid_059"].submission_name == "5ae318220b093000130afd79"
    held_out = {name for name, entry in entries.items() if entry.held_out}
    assert held_out == {"grid_028", "grid_029", "grid_042", "grid_058"}
    assert {entry.split for entry in entries.values() if entry.held_out} == {"training"}
    assert entries["grid_042"].size == (40551, 40592)
    assert {entry.credit for entry in entries.values()} == {
        "Imagery: Commission for Lands (COLA), Revolutionary Government of Zanzibar, CC-BY-4.0."
    }
    assert all(entry.url.startswith("https://") and entry.url.endswith(".tif") for entry in entries.values())


def test_none_is_empty_and_ones_own_is_read(tmp_path):
    assert read_catalogue("") == {}
    path = tmp_path / "mine.csv"
    path.write_text("image_id,split,url,note\na,test,https://host/x/a.tif,n\n")
    entry = read_catalogue(str(path))["a"]
    assert (entry.split, entry.held_out, entry.size, entry.credit) == ("test", False, None, "")
    path.write_text("image_id,url\na,https://host/a.tif\n")
    with pytest.raises(SettingsError, match="lacks columns"):
        read_catalogue(str(path))
    csv.field_size_limit(131_072)  # reading a submission raises it for the whole process
    path.write_text("x" * 200_000)
    with pytest.raises(SettingsError, match="not a CSV"):
        read_catalogue(str(path))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_catalogue(str(tmp_path / "none.csv"))


def test_an_image_stands_in_it_once(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("image_id,split,url\na,test,https://host/a.tif\na,training,https://host/b.tif\n")
    with pytest.raises(SettingsError, match=r"mine\.csv: image id stands there twice \(found 'a'\)"):
        read_catalogue(str(path))


def test_it_may_be_saved_by_excel_and_hold_lines_in_a_cell(tmp_path):
    path = tmp_path / "mine.csv"
    row = 'a,test,https://host/a.tif,"Land Commission\r\n\u2028of Zanzibar"\r\n'
    path.write_bytes(f"image_id,split,url,attribution\r\n{row}".encode("utf-8-sig"))
    assert read_catalogue(str(path))["a"].attribution == "Land Commission\r\n\u2028of Zanzibar"


@pytest.mark.parametrize(
    ("row", "what"),
    [("a,https://host/a.tif,yes,wide,10", "are pixels"), ("a,https://host/a.tif,perhaps,,", "yes or empty")],
)
def test_what_a_catalogue_cannot_mean_is_refused(tmp_path, row, what):
    path = tmp_path / "mine.csv"
    path.write_text(f"image_id,url,held_out,width,height,split\n{row},training\n")
    with pytest.raises(SettingsError, match=rf"mine\.csv, a.*{what}"):
        read_catalogue(str(path))
