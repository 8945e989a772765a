"""Tasks as Kubernetes pods: one Job of one pod an attempt. See docs/decisions/0012-kubernetes.md."""
