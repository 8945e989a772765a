"""Platforms that run plans. `base` is the protocol; each backend is a package with a pure `render` and a `driver`."""
