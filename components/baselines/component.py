"""The KFP container component of the stage `baselines`."""

from components.baselines import main
from components.kfp_component import container_component

baselines = container_component(main, pool="gpu")
