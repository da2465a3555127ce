"""The KFP container component of the stage `embed_text`."""

from components.embed_text import main
from components.kfp_component import container_component

embed_text = container_component(main, pool="gpu")
