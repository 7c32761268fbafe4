"""`serve`: a complete run as an HTTP service, for all apps."""
