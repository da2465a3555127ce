"""The KFP container component of the stage `evaluate`."""

from components.evaluate import main
from components.kfp_component import container_component

evaluate = container_component(main, pool="gpu")
