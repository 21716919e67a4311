"""Ways out of orca-ray: predictions as tables, and networks for other programs (ONNX, torch.export)."""

from orca_ray.export.formats import FORMATS, Exported, export_model

__all__ = ["FORMATS", "Exported", "export_model"]
