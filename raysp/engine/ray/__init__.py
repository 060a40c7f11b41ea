"""Running stages on a Ray cluster; the only room that imports Ray, but for Tune's searchers."""
