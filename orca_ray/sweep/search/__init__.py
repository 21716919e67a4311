"""The search of one (task, method): suggestions from Optuna, early stopping, confirm trials."""
