"""From a task to a Plan: pure compilation, no platform, no I/O."""
