"""The KFP container component of the stage `encode_items`."""

from components.encode_items import main
from components.kfp_component import container_component

encode_items = container_component(main, pool="cpu")
