import numpy as np
import pytest

from van.analysis.explain_plots import attention_sheet, cam_sheet, enlarge, heat_overlay, receptive_field_plot
from van.analysis.fields import ReceptiveField

PICTURE = np.random.default_rng(0).random((24, 32, 3))


def texts(figure):
    found = [text.get_text() for text in (figure._suptitle, figure._supxlabel) if text]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *(t.get_text() for t in axes.texts)]
    return "\n".join(found)


def test_overlay_colours_only_where_the_map_is():
    heat = np.zeros((6, 8))
    heat[1, 1] = 5.0
    shown = heat_overlay(PICTURE, heat)
    saturation = shown.max(2) - shown.min(2)
    assert shown.shape == PICTURE.shape
    assert 0 <= shown.min() <= shown.max() <= 1
    assert np.unravel_index(enlarge(heat, (24, 32)).argmax(), (24, 32)) == (5, 5)
    assert saturation[5:7, 5:7].min() > 0.3
    assert saturation[16:].max() < 1e-6


def test_zero_map_is_said_and_not_coloured():
    shown = heat_overlay(PICTURE, np.zeros((3, 4)))
    assert np.ptp(shown, axis=2).max() < 1e-6
    column = [(PICTURE, np.zeros((3, 4)), "predicted cat 50.0%")]
    assert "zero everywhere" in texts(cam_sheet({"net": column}, "Grad-CAM"))
    column = [(PICTURE, np.ones((3, 4)), "predicted cat 50.0%")]
    assert "zero everywhere" not in texts(cam_sheet({"net": column}, "Grad-CAM"))
    assert "zero everywhere" in texts(attention_sheet([PICTURE], {"stage 1": np.zeros((1, 3, 4))}, "LKA"))


def test_sheets_say_what_they_show(tmp_path):
    column = [(PICTURE, np.ones((3, 4)), "predicted cat 50.0%\nshown dog 2.0%")] * 2
    sheet = {"one": column, "two": column}, "Grad-CAM", ["a.png", "$b$.png"]
    figure = cam_sheet(*sheet)
    words = texts(figure)
    assert all(
        word in words
        for word in ("one", "two", "image", "a.png", "shown dog 2.0%", "evidence", "3 x 4 map", "enlarged", r"\$b\$")
    )
    maps = {"stage 1": np.random.default_rng(0).random((2, 3, 4)), "stage 2": np.ones((2, 1, 1))}
    words = texts(attention_sheet([PICTURE] * 2, maps, "LKA", ["a.png\ncat 50%"] * 2))
    assert all(word in words for word in ("stage 1\n3 x 4 map", "1 everywhere", "smallest", "cat 50%", "|attention|"))
    figure.savefig(tmp_path / "sheet.png", dpi=40)


def test_maps_have_the_form_of_the_image_and_rows_no_gaps():
    wide = np.zeros((20, 60, 3))
    sheet = attention_sheet([wide] * 2, {"stage 1": np.random.default_rng(0).random((2, 5, 15))}, "LKA")
    shown = [axes.images[0].get_extent() for axes in sheet.axes[:4]]
    assert [abs((right - left) / (top - bottom)) for left, right, bottom, top in shown] == pytest.approx([3] * 4, 0.02)
    square = attention_sheet([PICTURE[:, :24]] * 2, {"stage 1": np.ones((2, 5, 5))}, "LKA")
    assert sheet.get_figheight() < 0.65 * square.get_figheight()


def test_bar_has_the_colours_of_the_overlay():
    figure = cam_sheet({"net": [(PICTURE, np.ones((3, 4)), "predicted cat 50.0%")]}, "Grad-CAM")
    colours = figure.axes[-1].collections[-1].get_cmap()
    strongest = heat_overlay(np.full((2, 2, 3), 0.5), np.ones((2, 2)))[0, 0]
    np.testing.assert_allclose(colours(1.0)[:3], strongest, atol=0.01)
    np.testing.assert_allclose(colours(0.0)[:3], [0.4] * 3, atol=0.01)


def test_receptive_fields():
    energy = np.full((50, 60), 1e-6)
    energy[25, 30] = 1
    fields = {name: ReceptiveField(energy / energy.sum(), 3, "x") for name in ("one", "two")}
    figure = receptive_field_plot(fields, "Effective receptive field", {"one": "in theory 23 x 23 pixels"})
    assert "in theory 23 x 23 pixels" in texts(figure)
    assert "···· 20 %: 0.033 %" in texts(figure)
    figure.draw_without_rendering()
    lowest = min(axes.xaxis.label.get_window_extent().y0 for axes in figure.axes[:2])
    assert lowest >= 0  # nothing is cut off
    assert [len(axes.patches) for axes in figure.axes[:2]] == [4, 4]
    lines = figure.axes[4].lines
    assert lines[0].get_ydata()[10] == pytest.approx(100 / 3000)


def test_grad_cam_shows_the_crop_that_the_network_saw():
    figure = cam_sheet({"net": [(PICTURE, np.ones((3, 4)), "predicted cat")]}, "Grad-CAM")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), PICTURE)
    assert figure.axes[0].images[0].get_array().shape == figure.axes[1].images[0].get_array().shape
