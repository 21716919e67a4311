"""NAS-Bench-360: ten tasks far from what bodies were pretrained on (Tu et al., NeurIPS 2022)."""
