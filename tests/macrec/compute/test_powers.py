"""Powers of two that are nearest to a value."""

import pytest

from macrec.compute.powers import nearest_power_of_two


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.1, 2), (2, 2), (5, 4), (6, 8), (22.6, 16), (22.7, 32), (24, 32), (40, 32), (1e9, 64)],
)
def test_the_nearest_power_within_the_limits(value, expected):
    assert nearest_power_of_two(value, 2, 64) == expected
