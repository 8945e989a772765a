"""Where tasks are kept. `base` is the protocol; one module an implementation."""
