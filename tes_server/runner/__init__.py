"""Running a plan step by step where the platform does not: local engines now, Batch nodes later."""
