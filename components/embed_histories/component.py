"""The KFP container component of the stage `embed_histories`."""

from components.container import container_component
from components.embed_histories import main

embed_histories = container_component(main, pool="cpu")
