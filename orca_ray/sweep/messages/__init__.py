"""Messages between driver and workers: settings, reports, and causes of failures."""
