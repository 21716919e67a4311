"""The search of one (task, method): hyper-parameters suggested by Optuna, early stopping, and confirm trials."""
