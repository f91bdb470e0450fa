"""One of two processes that train together: saves a sharded state, for both, and as the part of its own machine."""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from ckpt_async import Settings, StoreAddress, TaskIdentity, open_checkpointer
from ckpt_async.integrations.distributed import CheckpointReader, CheckpointWriter, ShardedSaves
from ckpt_async.integrations.saver import EngineSaver

rank, folder, store, identity = int(sys.argv[1]), sys.argv[2], sys.argv[3], TaskIdentity(**json.loads(sys.argv[4]))
settings = Settings(async_upload=True, worker="thread", flush_timeout_s=60.0)


def state(of: int) -> dict[str, object]:
    whole = torch.arange(12.0).reshape(6, 2) + of
    return {"sharded": distribute_tensor(whole, mesh, [Shard(0)]), "same everywhere": torch.full((3,), float(of)), "step": of}


dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

# On one machine: the first saves for both.
if rank == 0:
    checkpointer = open_checkpointer(identity, StoreAddress(store), settings, scratch_root=f"{folder}/scratch")
    saver = EngineSaver(checkpointer, f"{folder}/together")
dcp.save(state(1), storage_writer=CheckpointWriter(saver if rank == 0 else None, metadata={"step": 1}))
saves = ShardedSaves(saver if rank == 0 else None)
changing = state(2)
saves.save(changing, metadata={"step": 2})
changing["sharded"].zero_()
saves.wait()
if rank == 0:
    checkpointer.close(timeout_s=60.0)
    assert os.listdir(saver.directory) == [], "the shards are saved, and gone"

# On two machines: each saves its part.
attempts = []
for attempt in range(2):
    of_gang = dataclasses.replace(identity, run="gang", attempt=attempt)
    dist.barrier()
    checkpointer = open_checkpointer(
        of_gang, StoreAddress(store), settings, scratch_root=f"{folder}/scratch-{rank}", node_index=rank, num_nodes=2
    )
    saver = EngineSaver(checkpointer, f"{folder}/machine-{rank}-{attempt}")
    if saver.is_loaded:
        loaded = state(0)
        dcp.load(loaded, storage_reader=CheckpointReader(saver))
        assert loaded["step"] == 3 and loaded["same everywhere"].tolist() == [3.0] * 3
        assert loaded["sharded"].full_tensor().equal(torch.arange(12.0).reshape(6, 2) + 3)
        print("went on from", loaded["step"])
    writer = CheckpointWriter(saver, metadata={"step": 3 + attempt}, group=True)
    dcp.save(state(3 + attempt), storage_writer=writer)
    writer.save_part()
    checkpointer.close(timeout_s=60.0)
dist.destroy_process_group()
