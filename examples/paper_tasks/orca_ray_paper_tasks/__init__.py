"""ORCA's smaller tasks, as a plug-in of orca-ray: drug response (CTRP, GDSC) and
DomainNet's sketches.
"""
