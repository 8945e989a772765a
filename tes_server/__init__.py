"""A GA4GH Task Execution Service (TES 1.1): one API over Kubernetes, Azure Batch, AWS Batch and this machine."""

__version__ = "0.1.0"
