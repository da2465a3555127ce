"""The KFP container component of the stage `embed_histories`."""

from components.embed_histories import main
from components.kfp_component import container_component

embed_histories = container_component(main, pool="cpu")
