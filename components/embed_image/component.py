"""The KFP container component of the stage `embed_image`."""

from components.embed_image import main
from components.kfp_component import container_component

embed_image = container_component(main, pool="gpu")
