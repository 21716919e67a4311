"""GDSC: the response of a cell line to a drug, from the drug's fingerprint and the cell line's mutations."""

from orca_ray.tasks.drug._reading import drug_task

TASK = drug_task(
    "gdsc",
    "Drug response, GDSC screen",
    citation="Yang et al., Genomics of Drug Sensitivity in Cancer (GDSC), Nucleic Acids Research, 2013",
    reference="https://doi.org/10.1093/nar/gks1111",
    terms="Genomics of Drug Sensitivity in Cancer asks to be cited; read its terms before commercial use; put the four "
    "arrays into the raw directory yourself.",
)
