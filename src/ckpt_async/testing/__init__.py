"""What the tests of stores and engines need, shipped for others: a contract suite, faults, a real S3 server, a slow line."""
