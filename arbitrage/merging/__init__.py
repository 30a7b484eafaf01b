"""Merges models of one architecture into one: checked on headers, streamed block by block, resumed.

Read `merge` first. Arithmetic is float32 of numpy, so that no torch is needed; an architecture is
the names, shapes and dtypes of its tensors, and no model is known by name.
"""
