"""Tasks on this machine: plans run by `runner.interpreter` in threads of the reconciler's process, executors outlive it."""
