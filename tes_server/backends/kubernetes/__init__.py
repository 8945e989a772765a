"""Tasks as Kubernetes pods: one Job of one pod an attempt. See docs/decisions/0013-kubernetes.md."""
