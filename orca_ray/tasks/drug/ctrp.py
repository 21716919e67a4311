"""CTRP: the response of a cell line to a drug, from the drug's fingerprint and the cell line's mutations."""

from orca_ray.tasks.drug._reading import drug_task

TASK = drug_task(
    "ctrp",
    "Drug response, CTRP screen",
    citation="Seashore-Ludlow et al., Harnessing connectivity in a large-scale small-molecule sensitivity dataset, "
    "Cancer Discovery, 2015",
    reference="https://doi.org/10.1158/2159-8290.CD-15-0235",
    terms="The Cancer Therapeutics Response Portal asks to be cited; put the four arrays into the raw directory "
    "yourself.",
)
