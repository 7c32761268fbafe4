"""CoCoRec, end to end."""
