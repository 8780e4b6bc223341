"""An AWS for the tests: moto's server, and what moto leaves out of EC2, SSM, SQS, IAM and instance metadata.

Read in this order: `__main__` (what is put together), `front` (the way of a call), then the services: `sqs`,
`instances` and `ec2`, `fleet`, `commands`. See README.md for how to use it.
"""
