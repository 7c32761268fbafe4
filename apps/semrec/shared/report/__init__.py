"""The page that a run ends in."""
