"""ORCA: align the embedder to the body's own modality, then fine-tune everything."""

from orca_ray.methods.recipe import Recipe

RECIPE = Recipe(
    name="orca",
    title="align, then refine everything",
    reference="Shen et al., Cross-Modal Fine-Tuning: Align then Refine, ICML 2023, arXiv:2302.05738",
    aligns=True,
    pretrained=True,
)
