import json

# T5: parameters counted from the definition, quoted multiply-accumulates (B6: T8)
T5 = {
    "van_b0": (4105800, 0.9),
    "van_b1": (13861800, 2.5),
    "van_b2": (26578472, 5.0),
    "van_b3": (44765608, 9.0),
    "van_b4": (60283176, 12.2),
    "van_b5": (89967688, 17.2),
    "van_b6": (199829416, 38.9),
}


def test_json(van):
    status, out, _ = van("models", "--json")
    rows = {row["model"]: row for row in json.loads(out)}
    assert status == 0
    assert list(rows) == list(T5)
    for name, (params, quoted) in T5.items():
        assert rows[name]["params"] == params
        assert abs(rows[name]["macs"] / 1e9 - quoted) < 0.2
    assert "van_b3.in1k" in rows["van_b3"]["weights"]
    assert rows["van_b5"]["weights"] == ["van_b5.mmseg_in22k"]


def test_table_labels_quoted_numbers(van):
    _, out, _ = van("models")
    assert "75.4" in out
    assert "the paper reports" in out
