import pytest

from van.analysis.ablation import Outcome, ablation_rows, table_rows
from van.analysis.complexity_plots import ablation_plot, dilation_plot, size_plot, variants_plot
from van.analysis.counting import layer_costs, parameter_curve, size_costs
from van.models import create_model


def texts(figure):
    return "\n".join(
        word for axes in figure.axes for word in (axes.get_xlabel(), *(text.get_text() for text in axes.texts))
    )


def test_cost_plots():
    figure = dilation_plot({21: parameter_curve(21, 64), 7: parameter_curve(7, 64)}, 64)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["K = 21: minimum 8,832 at d = 3", "K = 7: minimum 5,696 at d = 2"]
    assert (
        "O(n²)" in size_plot(size_costs("van_b0", [64, 128]), "VAN-B0").axes[0].get_legend().get_texts()[0].get_text()
    )
    figure = variants_plot({"van_b0": layer_costs(create_model("van_b0", device="meta"), (3, 64, 64))}, "B0")
    ends = [max(bar.get_x() + bar.get_width() for bar in axes.patches) for axes in figure.axes]
    assert ends == pytest.approx([100] * 4)


def test_ablation_table_and_plot():
    rows = table_rows(6)
    outcomes = [Outcome(rows[0], 4_027_400, 849_000_000, 0.9, 360, 12.3), Outcome(rows[1], 4_067_400, 865_100_000)]
    lines = ablation_rows(outcomes)
    assert [line["top-1 measured"] for line in lines] == ["90.00", "-"]
    assert [line["params M"] for line in lines] == [line["quoted M"] for line in lines] == ["4.03", "4.07"]
    assert [line["GMACs"] for line in lines] == ["0.85", "0.87"]
    assert {line["quoted M"] for line in ablation_rows(outcomes, "van_b1")} == {"-"}
    words = texts(ablation_plot(outcomes, "T6", "digits"))
    assert all(word in words for word in ("reported", "measured", "90.0"))
    assert "no row has been trained" in texts(ablation_plot(outcomes[1:], "T6", "digits"))
