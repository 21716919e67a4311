"""Training from scratch: the same network with random initial weights."""

from orca_ray.methods.recipe import Recipe

RECIPE = Recipe(
    name="scratch",
    title="the same network from random initialisation",
    reference="Shen et al., Cross-Modal Fine-Tuning: Align then Refine, ICML 2023, arXiv:2302.05738",
    aligns=False,
    pretrained=False,
)
