"""Several stages on one GPU: how many belong there, what they make together, and MPS, which lets them compute at once."""
