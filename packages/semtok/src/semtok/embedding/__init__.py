"""Embedding sources: catalogues to vectors."""
