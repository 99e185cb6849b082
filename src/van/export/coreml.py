"""Core ML packages, for macOS and iOS."""

import io
import logging
import sys
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from van.errors import VanError
from van.export.checks import package
from van.export.formats import Format, Traced, about, names_of


class CoreMLFormat(Format):
    """An .mlpackage for one image of one size. It is compared with the network on macOS alone, where Core ML runs."""

    ending = ".mlpackage"
    extra = "coreml"
    packages = ("coremltools",)
    runs = sys.platform == "darwin"
    dynamic = ()
    precisions = ("float32", "float16")

    def check(self) -> None:
        """Refuse to begin where the package is missing; see Format."""
        logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns of every newer version, and of Linux
        super().check()

    def write(self, traced: Traced, path: Path) -> None:
        """Write the package; see Format. Its metadata have `van`, the header, and `names`, the class names, as JSON."""
        tools = package("coremltools", self.extra)
        graph = traced.graph
        if graph.preprocess:
            raise VanError("Core ML takes no images of bytes. Leave out preprocess.")
        try:
            with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # three bars of progress
                warnings.simplefilter("ignore")  # of the converter's own code
                model = tools.convert(
                    traced.program.run_decompositions({}),
                    convert_to="mlprogram",
                    minimum_deployment_target=tools.target.iOS16,
                    compute_precision=getattr(tools.precision, traced.header.export["precision"].upper()),
                    outputs=[tools.TensorType(name=name) for name in graph.output_names],
                    skip_model_load=not self.runs,
                )
        except Exception as error:  # of whichever pass fails
            reason = str(error).strip().splitlines()[0][:300]
            raise VanError(f"Core ML cannot take this network with these options ({reason}).") from error
        model.user_defined_metadata["van"] = about(traced.header)
        model.user_defined_metadata["names"] = names_of(traced.header)
        model.save(str(path))

    def open(self, path: Path) -> Any:
        """Return a function that runs the package, on macOS; see Format."""
        model = package("coremltools", self.extra).models.MLModel(str(path))
        described = model.get_spec().description
        inputs, outputs = ([one.name for one in side] for side in (described.input, described.output))

        def run(arrays: list[Any]) -> list[Any]:
            found = model.predict(dict(zip(inputs, arrays, strict=False)))
            return [found[name] for name in outputs]

        return run
