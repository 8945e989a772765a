"""AWS Batch on this machine: `Emulator` for tests, `python -m tests.emulators.aws_batch` by hand.

It answers what boto3 asks of AWS Batch, SQS, Secrets Manager and ECR, runs each job's container through Docker on "hosts" that have cores,
memory and GPUs, tells of state changes as EventBridge does, and has a bad day when told to. Every request and every answer is held against
botocore's description of the service.
"""
