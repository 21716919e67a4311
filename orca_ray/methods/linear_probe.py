"""Linear probe: only the head trains, on the features of the unchanged body."""

from orca_ray.methods.recipe import Recipe, head_parameters

RECIPE = Recipe(
    name="linear_probe",
    title="refine the head only",
    reference="Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, arXiv:1610.01644",
    aligns=False,
    pretrained=True,
    trainable=head_parameters,
    # A convex problem on fixed features: large steps are safe.
    defaults={"refine.learning_rate": 1e-2},
)
