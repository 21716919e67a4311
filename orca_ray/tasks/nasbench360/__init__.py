"""NAS-Bench-360: ten tasks, most of whose data differ from what bodies were pretrained on (Tu et al., NeurIPS 2022)."""
