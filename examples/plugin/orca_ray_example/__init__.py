"""One plug-in of each kind for orca-ray."""
