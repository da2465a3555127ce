"""The KFP container component of the stage `quantize`."""

from components.kfp_component import container_component
from components.quantize import main

quantize = container_component(main, pool="gpu")
