"""Packages of the extras ``predict`` and ``sweep``, which the base install lacks (docs/decisions/0001-extras.md)."""

HEAVY_PACKAGES = {
    "PIL", "arff", "filelock", "h5py", "huggingface_hub", "onnx", "optuna", "ot", "peft", "pot", "psutil", "ray",
    "requests", "safetensors", "scipy", "sklearn", "threadpoolctl", "timm", "torch", "torchvision", "transformers",
    "urllib3",
}  # fmt: skip
"""Names of their modules, and those of distributions by which some are looked up."""


def missing_package(error: BaseException, extra: str) -> str:
    """Return that ``extra`` brings the package that ``error`` says is missing; "" for any other error."""
    package = ((isinstance(error, ModuleNotFoundError) and error.name) or "").partition(".")[0]
    if package not in HEAVY_PACKAGES:
        return ""
    return f"needs the package {package!r}, which is not installed: pip install 'orca-ray[{extra}]'"
