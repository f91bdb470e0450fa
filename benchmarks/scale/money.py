"""What requests, storage and ways cost: prices as data, and the sums that a reader can do by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .counting import Requests, total

GB = 10**9
DAYS = 30


@dataclass(frozen=True)
class Prices:
    """Of one store, in US dollars.

    Attributes
    ----------
    per_write, per_read, per_delete : float
        Of one request: PUT, COPY, POST and LIST; GET, HEAD and all others; DELETE.
    storage : tuple
        Steps: up to so many bytes in all, the price of a GB-month.
    per_gb_nat : float
        Of what goes through a NAT gateway on its way to the store.
    per_gb_region, per_gb_internet : float
        Of what is read from another region, and over the internet.
    """

    name: str
    per_write: float
    per_read: float
    per_delete: float
    storage: tuple[tuple[float, float], ...]
    per_gb_nat: float
    per_gb_region: float
    per_gb_internet: float


S3 = Prices(
    "S3 Standard, us-east-1, June 2026",
    per_write=0.005 / 1000,
    per_read=0.0004 / 1000,
    per_delete=0.0,
    storage=((50_000 * GB, 0.023), (500_000 * GB, 0.022), (math.inf, 0.021)),
    per_gb_nat=0.045,
    per_gb_region=0.02,
    per_gb_internet=0.09,
)


def request_cost(requests: Requests, prices: Prices = S3) -> float:
    """What these requests cost."""
    deletes = total(requests, ("delete_many", "abort_upload"))
    reads = total(requests, ("get", "head"))
    return deletes * prices.per_delete + reads * prices.per_read + (total(requests) - reads - deletes) * prices.per_write


def storage_cost(size_bytes: float, prices: Prices = S3) -> float:
    """What holding so much for a month costs."""
    cost = below = 0.0
    for up_to, per_gb in prices.storage:
        cost += max(0.0, min(size_bytes, up_to) - below) / GB * per_gb
        below = up_to
    return cost


def growing_storage_cost(bytes_per_day: float, days: int = DAYS, prices: Prices = S3) -> float:
    """What a month costs in which so much is added each day and nothing is deleted: half of it is there on the average."""
    return storage_cost(bytes_per_day * days / 2, prices) * days / DAYS


def abandoned_cost(checkpoint_bytes: float, lost_per_month: float, days_until_ended: float, prices: Prices = S3) -> float:
    """What parts of uploads cost that nobody completes: half a checkpoint for each machine that is lost while it uploads."""
    return storage_cost(checkpoint_bytes / 2 * lost_per_month * days_until_ended / DAYS, prices)
