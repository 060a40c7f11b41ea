"""Predicted private inference: what a network will take, from measured tables of layers, without running it.

Needs no extra. Measuring is `raysp.pi`'s, which writes the tables that are read here.
"""
