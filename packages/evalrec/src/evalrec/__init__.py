"""Interaction data, leave-one-out, full ranking and the floors that any model must beat."""
