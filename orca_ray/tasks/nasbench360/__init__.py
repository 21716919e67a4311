"""NAS-Bench-360: ten tasks, most of whose data differ from what bodies were pretrained on (Tu et al., NeurIPS 2022).

The tasks are declared in ``tasks.toml``; the modules read their raw files.
"""
