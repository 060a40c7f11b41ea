"""Private inference under protocols that nobody has run here, estimated from published constants: a module each.

A new protocol is a module with an `Estimator` (`interface`), and its name in the list of `known`.
"""
