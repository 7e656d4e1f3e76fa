"""Annotations of Pascal VOC: how pixels are counted, lists of images, and XML that could do harm."""

from pathlib import Path

import pytest

from tutelage.data.box_folder import list_boxes
from tutelage.data.box_voc import parse_xml
from tutelage.errors import DataError, SecurityError

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


@pytest.fixture
def voc(boxes_of_kind) -> Path:
    return boxes_of_kind("voc")


def told(root: Path) -> str:
    return "\n".join(map(str, list_boxes(root).listing.problems))


def things(root: Path, *objects: str, size: str = "") -> Path:
    """Write the annotation of s01 anew, with these between <object> and </object>."""
    inside = "\n".join(f"<object>{text}</object>" for text in objects)
    (root / "Annotations" / "s01.xml").write_text(f"<annotation>\n{size}{inside}\n</annotation>")
    return root


def boxes_of(root: Path, name: str) -> list:
    listing = list_boxes(root)
    return next(own.boxes.tolist() for image, own in zip(listing.listing.images, listing.found, strict=True)
                if image.path.stem == name and own is not None)


def test_pixels_are_counted_from_1_and_the_last_is_in_the_box(voc):
    things(voc, f"<name>cat</name>{BOX.format(1, 1, 40, 30)}", f"<name>cat</name>{BOX.format(5, 6, 5, 7.5)}")
    assert boxes_of(voc, "s01") == [[0, 0, 40, 30], [4, 5, 5, 7.5]]
    assert told(voc) == ""


def test_difficult_things_are_left_out_and_told(voc):
    things(voc, f"<name>cat</name><difficult>1</difficult>{BOX.format(1, 1, 40, 30)}",
           f"<name>cat</name><difficult>0</difficult>{BOX.format(1, 1, 4, 3)}")
    assert boxes_of(voc, "s01") == [[0, 0, 4, 3]]
    assert "1 boxes of things that are difficult left out" in "\n".join(list_boxes(voc).listing.notes)


def test_boxes_of_parts_of_a_thing_are_not_its_box(voc):
    things(voc, f"<name>cat</name>{BOX.format(1, 1, 40, 30)}<part><name>head</name>{BOX.format(1, 1, 2, 2)}</part>")
    assert boxes_of(voc, "s01") == [[0, 0, 40, 30]]


def test_classes_are_those_that_occur_or_those_of_classes_txt(voc):
    (voc / "classes.txt").write_text("dog\ncat\nowl\n")
    assert list_boxes(voc).listing.classes == ("dog", "cat", "owl")
    assert told(voc) == ""
    (voc / "classes.txt").write_text("dog\nowl\n")
    problem = told(voc)
    assert "a box of a class without a name" in problem
    assert "Annotations/s01.xml, line 3" in problem
    assert "cat" in problem


def test_trainval_stands_for_train_where_that_is_missing(voc):
    main = voc / "ImageSets" / "Main"
    (main / "trainval.txt").write_text((main / "train.txt").read_text() + (main / "val.txt").read_text())
    (main / "cat_train.txt").write_text("s00 -1\ns01  1\n")
    assert [image.split for image in list_boxes(voc).listing.images].count("val") == 2
    (main / "train.txt").unlink()
    assert [image.split for image in list_boxes(voc).listing.images] == ["train"] * 10 + ["test"] * 2
    (main / "test.txt").unlink()
    assert "in no list of ImageSets/Main" in "\n".join(list_boxes(voc).listing.notes)


@pytest.mark.parametrize(("text", "problem"), [
    (BOX.format(1, 1, 4, 3), "a class without a name"), ("<name> </name>" + BOX.format(1, 1, 4, 3), "without a name"),
    ("<name>cat</name>", "a box that is none"), ("<name>cat</name><bndbox><xmin>1</xmin></bndbox>", "that is none"),
    ("<name>cat</name>" + BOX.format("nan", 1, 4, 3), "a box that is none"),
    ("<name>cat</name>" + BOX.format("1_0", 1, 40, 3), "a box that is none"),
    ("<name>cat</name>" + BOX.format(1, 1, "inf", 3), "a box that is none")])
def test_what_is_wrong_is_named_by_its_line(text, problem, voc):
    found = told(things(voc, "<name>cat</name>" + BOX.format(1, 1, 4, 3), text))
    assert problem in found
    assert "Annotations/s01.xml, line 3" in found


HOSTILE = {
    "entity": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<annotation><object><name>&x;</name>{}</object>'
              "</annotation>",
    "laughs": '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n<annotation>&b;'
              "</annotation>",
    "external": '<!DOCTYPE annotation SYSTEM "http://example.com/a.dtd">\n<annotation></annotation>',
    "plain type": "<!DOCTYPE annotation>\n<annotation></annotation>",
    "levels": "<annotation>" + "<a>" * 100_000,
    "things": "<annotation>" + "<object></object>" * 3000 + "</annotation>",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_xml_that_could_do_harm_is_refused(text, voc):
    (voc / "Annotations" / "s01.xml").write_text(text)
    with pytest.raises(SecurityError):
        parse_xml(voc / "Annotations" / "s01.xml")
    assert isinstance(list_boxes(voc).listing.problems[-1], SecurityError)


def test_xml_that_is_too_large_is_not_parsed(voc, monkeypatch):
    monkeypatch.setattr("tutelage.data.box_voc.XML_AT_MOST", 50)
    with pytest.raises(SecurityError, match="too large"):
        parse_xml(voc / "Annotations" / "s01.xml")


@pytest.mark.parametrize("text", ["<annotation>", "", "no xml", "<a>&unknown;</a>", '<?xml version="1.0" '
                                  'encoding="klingon"?><a/>', "<a></b>", "<a/><b/>"])
def test_xml_that_cannot_be_read_is_named_with_its_line(text, voc):
    (voc / "Annotations" / "s01.xml").write_text(text)
    with pytest.raises(DataError, match="an XML file that cannot be read"):
        parse_xml(voc / "Annotations" / "s01.xml")
    assert "Annotations/s01.xml" in told(voc)


def test_all_problems_are_collected(voc):
    for name in ("s01", "s02"):
        (voc / "Annotations" / f"{name}.xml").write_text("<annotation>")
    assert len(list_boxes(voc).listing.problems) == 2
