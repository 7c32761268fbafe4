"""Item attributes to embeddings, and embeddings to semantic IDs."""
