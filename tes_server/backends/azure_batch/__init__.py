"""Azure Batch: attempts are tasks of one container, the node runner, on the nodes of pools."""
