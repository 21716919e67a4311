"""Naive fine-tuning: ORCA without the align stage."""

from orca_ray.methods.recipe import Recipe

RECIPE = Recipe(
    name="nft",
    title="refine everything, no align",
    reference="Shen et al., Cross-Modal Fine-Tuning: Align then Refine, ICML 2023, arXiv:2302.05738",
    aligns=False,
    pretrained=True,
)
