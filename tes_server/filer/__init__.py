"""Stage-in and stage-out: files from urls into a task's volume, and from the volume to urls."""
