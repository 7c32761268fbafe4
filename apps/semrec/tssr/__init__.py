"""TSSR, end to end."""
