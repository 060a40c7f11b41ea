"""What is trained next: a sweep's distinct stages, early stopping, and searches that propose while a sweep runs."""
