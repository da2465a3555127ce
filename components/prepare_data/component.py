"""The KFP container component of the stage `prepare_data`."""

from components.kfp_component import container_component
from components.prepare_data import main

prepare_data = container_component(main, pool="cpu")
