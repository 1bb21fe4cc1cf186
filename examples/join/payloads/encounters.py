"""The payload: which ships of a fleet met, as a join of their positions with themselves."""

import os
import time

from dagster_pipes import open_dagster_pipes
from pyspark.sql import Row, SparkSession  # type: ignore[import-not-found,unused-ignore]
from pyspark.sql import functions as f

HOURS, PLACES = 168, 10_000


def met(row: Row) -> tuple[int, int, str]:
    """An hour, its encounters, and the node that has counted them."""
    return row["hour"], row["encounters"], os.environ.get("SLURMD_NODENAME", "this machine")


with open_dagster_pipes() as pipes:
    # Where the cluster is, the session knows by itself.
    spark = SparkSession.builder.appName("encounters").getOrCreate()
    began = time.monotonic()
    ships = pipes.get_extra("ships")
    hour, ship = (f.col("id") / ships).cast("int"), f.col("id") % ships
    positions = spark.range(ships * HOURS).select(hour.alias("hour"), ship.alias("ship"))
    positions = positions.withColumn("place", f.pmod(f.xxhash64("ship", "hour"), f.lit(PLACES)))

    others = positions.withColumnRenamed("ship", "other")
    pairs = positions.hint("merge").join(others, ["hour", "place"]).where("ship < other")
    by_hour = pairs.groupBy("hour").agg(f.count("*").alias("encounters")).rdd.map(met).collect()
    encounters = sum(count for _, count, _ in by_hour)

    crowd = positions.groupBy("hour", "place").count()
    expected = crowd.agg(f.sum(f.expr("count * (count - 1) div 2"))).collect()[0][0]
    if encounters != expected:
        raise ValueError(f"{encounters} encounters were joined, and {expected} counted")
    nodes = sorted({node for *_, node in by_hour})
    print(f"{encounters} encounters in {time.monotonic() - began:.1f} s on {', '.join(nodes)}")
    metadata = {"positions": ships * HOURS, "encounters": encounters, "nodes": len(nodes)}
    pipes.report_asset_materialization(metadata=metadata)
