"""Running planned trials: driver, controller, placement, retries, recorder."""
