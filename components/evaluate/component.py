"""The KFP container component of the stage `evaluate`."""

from components.container import container_component
from components.evaluate import main

evaluate = container_component(main, pool="gpu")
