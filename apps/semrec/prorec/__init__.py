"""PRORec, end to end."""
