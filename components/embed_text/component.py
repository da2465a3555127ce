"""The KFP container component of the stage `embed_text`."""

from components.container import container_component
from components.embed_text import main

embed_text = container_component(main, pool="gpu")
