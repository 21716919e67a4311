"""Running planned trials: the conductor chooses the next trial, executors run it, its reports become a record."""
