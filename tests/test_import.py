import os
import subprocess
import sys
import textwrap

import pytest

import van


def run(code):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_van_before_timm():
    run(
        """
        import van
        import timm
        model = timm.create_model("van_b0", num_classes=3)
        assert isinstance(model, van.VAN)
        """
    )


def test_timm_before_van():
    run(
        """
        import timm
        import van
        assert timm.is_model("van_b6")
        assert isinstance(timm.create_model("van_b0", num_classes=3), van.VAN)
        """
    )


def test_part_of_timm_after_van():
    run(
        """
        import van
        from timm.models import create_model
        create_model("van_b0", num_classes=3)
        """
    )


def test_import_loads_nothing_heavy():
    loaded = run(
        """
        import sys
        import van
        assert van.__version__
        print([name for name in ("torch", "timm", "numpy", "torchvision", "lightning") if name in sys.modules])
        """
    )
    assert loaded.strip() == "[]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_every_module_below_the_networks_can_be_imported_first():
    """Whichever of them loads timm, van.models.van is imported in the middle of it."""
    broken = run(
        """
        import os, pkgutil
        import torch, van.models, van.ops  # neither loads timm
        modules = [m for p in (van.models, van.ops) for m in pkgutil.iter_modules(p.__path__, p.__name__ + ".")]
        for module in modules:
            if module.name == "van.ops.triton_kernels":  # needs Triton
                continue
            child = os.fork()
            if not child:
                __import__(module.name)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                print(module.name)
        """
    )
    assert not broken


@pytest.mark.parametrize("name", van.__all__)
def test_public_names_can_be_used(name):
    assert callable(getattr(van, name))


def test_dir_shows_public_names_only():
    assert run("import van; print(sorted(dir(van)))").strip() == str(sorted([*van.__all__, "__version__"]))


def test_export_is_a_function_whatever_was_imported_before():
    run(
        """
        import van.export.fuse
        import van
        try:
            van.export("van_b0", format="floppy")
        except van.VanError as error:
            assert "floppy" in str(error)
        """
    )


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="module 'van' has no attribute 'nothing'"):
        van.nothing  # noqa: B018
