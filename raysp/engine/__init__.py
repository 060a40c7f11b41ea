"""Runs any stages, in this process or on Ray. Knows no network and no method."""
