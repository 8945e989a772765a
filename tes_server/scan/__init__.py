"""Image scans: what scanners are told, what their reports mean, and what a policy makes of that. Pure."""
