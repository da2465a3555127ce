"""The KFP container component of the stage `train`."""

from components.kfp_component import container_component
from components.train import main

train = container_component(main, pool="gpu")
