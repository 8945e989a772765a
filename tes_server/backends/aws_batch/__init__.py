"""AWS Batch: attempts are jobs of one container, the node runner, on EC2 compute environments."""
