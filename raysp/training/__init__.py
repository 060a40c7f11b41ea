"""The loop over epochs that all stages share, and what a step of it is made of."""
