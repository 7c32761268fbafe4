"""A complete run as an HTTP service: `serve`, as the three apps have it."""
