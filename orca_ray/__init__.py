"""orca-ray: distributed sweeps for cross-modal fine-tuning (align, then refine)."""

__version__ = "0.1.0"
