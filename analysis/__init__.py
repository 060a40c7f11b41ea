"""From records to tables, Pareto fronts and pictures. Imports raysp; raysp never imports it."""
