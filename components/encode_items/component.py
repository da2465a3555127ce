"""The KFP container component of the stage `encode_items`."""

from components.container import container_component
from components.encode_items import main

encode_items = container_component(main, pool="cpu")
