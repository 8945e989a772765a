"""Values that cross rooms. Pure data: no I/O, no clock, no SDK."""
