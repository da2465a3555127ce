"""The KFP container component of the stage `recommend`."""

from components.container import container_component
from components.recommend import main

recommend = container_component(main, pool="gpu")
