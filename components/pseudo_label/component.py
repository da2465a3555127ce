"""The KFP container component of the stage `pseudo_label`."""

from components.kfp_component import container_component
from components.pseudo_label import main

pseudo_label = container_component(main, pool="cpu")
