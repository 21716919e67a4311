"""Linear probe: only the head learns, on the features that the untouched body gives."""

from orca_ray.methods.recipe import Recipe, head_parameters

RECIPE = Recipe(
    name="linear_probe",
    title="refine the head only",
    reference="Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, arXiv:1610.01644",
    aligns=False,
    pretrained=True,
    trainable=head_parameters,
    # A convex problem on fixed features: large steps are safe, and epochs cost almost nothing.
    defaults={"refine.learning_rate": 1e-2},
)
