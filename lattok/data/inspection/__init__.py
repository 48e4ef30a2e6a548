"""What a dataset holds and what in it will hurt."""

from lattok.data.inspection.result import Inspection
from lattok.data.inspection.run import inspect_dataset

__all__ = ["Inspection", "inspect_dataset"]
