"""One file per sweep: its axes, the stages they give, and the shared command line around them."""
