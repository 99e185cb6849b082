import csv

import pytest

from van.analysis.tables import Report, markdown, number, write_csv


def test_columns_of_numbers_are_aligned_to_the_right():
    rows = [
        {
            "name": "a",
            "count": "1,234",
            "range": "1.0-12.5",
            "error": "1e-06",
            "quoted": "38.4 (T8: 38.9)",
            "size": "-",
        },
        {"name": "longer", "count": "7", "range": "-", "error": "0", "quoted": "5.0", "size": "3x3"},
    ]
    head, rule, first, second = markdown(rows).splitlines()
    assert len({len(line) for line in (head, rule, first, second)}) == 1
    assert [cell.endswith(":") for cell in rule.strip("|").split("|")] == [False, True, True, True, True, False]
    assert first.startswith("| a      | 1,234 |")
    assert second.startswith("| longer |     7 |")


def test_csv_has_plain_numbers(tmp_path):
    rows = [{"n": "1,234", "text": "a, b", "share": 1 / 3, "none": None, "version": "1.0"}]
    assert write_csv(tmp_path / "table.csv", rows) == "table.csv"
    with (tmp_path / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row == {"n": "1234", "text": "a, b", "share": "0.333333", "none": "", "version": "1.0"}


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0, "0.0"), (1.25, "1.2")])
def test_numbers(value, text):
    assert number(value, ".1f") == text


def test_report_says_where_its_files_are(tmp_path):
    assert str(Report("text", {})) == "text"
    assert f"{tmp_path}: a.csv b.png" in str(Report("text", {}, tmp_path, ["a.csv", "b.png"]))
