"""A child process of a task that dies as soon as its save is in the spool, before anything of it is in the store.

Arguments: the task's identity and the store's address, both as JSON, the scratch folder, the folder to save, the name of the
checkpoint, the node and the number of nodes. In a gang it is a group save.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from ckpt_async import StoreAddress, TaskIdentity, open_for_child

identity, address, scratch, folder, name, node, num_nodes = sys.argv[1:]
group = int(num_nodes) > 1
checkpointer = open_for_child(
    TaskIdentity(**json.loads(identity)),
    StoreAddress(**json.loads(address)),
    scratch_root=scratch,
    node_index=int(node),
    num_nodes=int(num_nodes),
    group=group,
)
checkpointer.add_listener(lambda event: os.kill(os.getpid(), signal.SIGKILL))
checkpointer.save(folder, name=name, group=group)
