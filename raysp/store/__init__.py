"""What is kept, and where: stages, their keys and records, weights, the lock, plans. Knows no network."""
