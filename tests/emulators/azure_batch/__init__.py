"""Azure Batch on this machine: `Emulator` for tests, `python -m tests.emulators.azure_batch` by hand.

It answers what the SDK azure-batch asks of the service (REST, 2025-06-01, TLS) and what azure-identity asks of Entra ID and of a node's metadata service,
allocates nodes to pools, runs tasks there through Docker, and has a bad day when told to. Every request and every answer is held against the SDK's models.
"""
