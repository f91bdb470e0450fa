"""Prunes the checkpoints of a task, as a notebook does."""

import sys

from metaflow import Checkpoint


def main():
    task, checkpoint = sys.argv[1], Checkpoint()

    def numbers(records):
        return [record["metadata"]["number"] for record in records]

    def there():
        listed = checkpoint.list(task=task, attempt=0) + checkpoint.list(task=task, attempt=1)
        return sorted((record["attempt"], record["version_id"]) for record in listed)

    found = {"plan": [], "left": [], "deleted": [], "stay": []}
    pinned = next(record for record in checkpoint.list(task=task) if record["metadata"]["number"] == 4)
    checkpoint.unpin(pinned)
    found["plan"] = numbers(checkpoint.prune(task, keep_last=1))
    checkpoint.pin(pinned)
    found["left"] = there()
    found["deleted"] = sorted(numbers(checkpoint.prune(task, keep_last="1", dry_run=False)))
    found["stay"] = there()
    print(found)


if __name__ == "__main__":
    main()
