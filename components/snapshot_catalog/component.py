"""The KFP container component of the stage `snapshot_catalog`."""

from components.kfp_component import container_component
from components.snapshot_catalog import main

snapshot_catalog = container_component(main, pool="cpu")
