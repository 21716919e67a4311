"""Artefacts, small pictures of what a trained model does: their base in `base`, and one module for a kind or a few."""
