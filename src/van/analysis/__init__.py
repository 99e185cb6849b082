"""Looking into networks: what the commands models, complexity, explain, receptive-field, benchmark and ablate do.

Each of them is a function here with the same options that returns a van.analysis.tables.Report. The modules of this
package hold what they are made of: arrays in, arrays and figures out.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from van.analysis.reports.ablate import ablate
    from van.analysis.reports.benchmark import benchmark
    from van.analysis.reports.complexity import complexity
    from van.analysis.reports.explain import explain
    from van.analysis.reports.models import models
    from van.analysis.reports.receptive_field import receptive_field

__all__ = ["ablate", "benchmark", "complexity", "explain", "models", "receptive_field"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'van.analysis' has no attribute {name!r}")
    return getattr(import_module(f"van.analysis.reports.{name}"), name)


def __dir__() -> list[str]:
    return list(__all__)
