"""The KFP container component of the stage `recommend`."""

from components.kfp_component import container_component
from components.recommend import main

recommend = container_component(main, pool="gpu")
