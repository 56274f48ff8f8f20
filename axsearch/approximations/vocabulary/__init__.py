"""A smaller vocabulary: rows of the embeddings whose tokens the user's texts hardly have."""
