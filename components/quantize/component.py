"""The KFP container component of the stage `quantize`."""

from components.container import container_component
from components.quantize import main

quantize = container_component(main, pool="gpu")
