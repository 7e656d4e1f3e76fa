"""Made series to forecast: two waves of unlike periods and noise, whose size follows a wave of its own.

The noise is louder where the driver, a wave that runs ahead of the load, is high: how sure a forecast can be differs
from moment to moment, and can be learned. A number depends on series, column and step alone.
"""

import math

import torch
from torch import Tensor

from tutelage.system.random import derive, uniform

SERIES, STEPS = 8, 320
PERIODS = (12.0, 17.0)


def waves_forecast(columns: int, least: int = 0) -> Tensor:
    """[8, columns, 320 or four times `least`, if that is more] float64: load, driver, and more of the same kind."""
    steps = max(STEPS, 4 * least)
    ids = torch.arange(SERIES)
    made = []
    for column in range(columns):
        facts = uniform(derive("waves to forecast", column // 2), ids, 3).double()
        time = torch.arange(steps).double()
        driver = (2 * math.pi * (time / 40 + facts[:, :1])).sin()
        phases = [2 * math.pi * (time / period + facts[:, 1 + number, None]) for number, period in enumerate(PERIODS)]
        # The sum of twelve uniform numbers is as good as normal here, and the same on every machine.
        drawn = uniform(derive("noise of waves to forecast", column // 2), ids, 12 * steps).double()
        noise = drawn.view(SERIES, steps, 12).sum(-1) - 6
        load = phases[0].sin() + 0.6 * phases[1].sin() + (0.1 + 0.2 * (1 + driver)) * noise
        made.append(10 + 3 * load if column % 2 == 0 else driver)
    return torch.stack(made, 1)
