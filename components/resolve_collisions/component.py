"""The KFP container component of the stage `resolve_collisions`."""

from components.kfp_component import container_component
from components.resolve_collisions import main

resolve_collisions = container_component(main, pool="cpu")
