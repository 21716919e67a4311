"""Running planned trials: the conductor hands them out, executors run them, reports become records."""
