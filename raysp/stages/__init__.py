"""The four stages of the method, a module each with its configuration and its function; how they form a chain; the presets.

None of them imports Ray.
"""
