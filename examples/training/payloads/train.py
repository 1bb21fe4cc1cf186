# mypy: disable-error-code="import-not-found"
"""A straight line is fitted by ranks that average their gradients; a requeued job goes on from its checkpoint."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from dagster_pipes import open_dagster_pipes
from torch import nn


def points(rank: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The points that a rank learns from: y = 3x - 1, with some noise."""
    generator = torch.Generator().manual_seed(rank)
    x = torch.rand(count, 1, generator=generator)
    return x, 3 * x - 1 + 0.01 * torch.randn(count, 1, generator=generator)


def averaged(model: nn.Module) -> None:
    """Every rank gets the mean of all gradients."""
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def main() -> None:
    """Train, and keep a checkpoint after each epoch."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    checkpoint = Path(os.environ["DAGSTER_SLURM_CHECKPOINT_DIR"], "model.pt")
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    first = 0
    if checkpoint.exists():
        first, weights = torch.load(checkpoint)
        model.load_state_dict(weights)
    # Nobody writes the next checkpoint before everybody has read this one.
    dist.barrier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    # Every rank has the extras; what rank 0 reports is heard.
    with open_dagster_pipes() as pipes:
        x, y = points(rank, pipes.get_extra("points"))
        for epoch in range(first, pipes.get_extra("epochs")):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            averaged(model)
            optimizer.step()
            if rank == 0:
                torch.save((epoch + 1, model.state_dict()), checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)
        slope, offset = model.weight.item(), model.bias.item()
        print(f"rank {rank} of {ranks}: from epoch {first}", flush=True)
        if rank == 0:
            metadata = {"slope": slope, "offset": offset, "ranks": ranks, "resumed_from": first}
            pipes.report_asset_materialization(metadata=metadata)
    # A rank whose peers part while it ends may be aborted by gloo ("terminate called", torch 2.13.0).
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
