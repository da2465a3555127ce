"""The KFP container component of the stage `embed_image`."""

from components.container import container_component
from components.embed_image import main

embed_image = container_component(main, pool="gpu")
