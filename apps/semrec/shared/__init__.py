"""What the three papers' systems have in common: the run, its stages, commands, reports."""
