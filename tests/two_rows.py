"""Two rows of logits and what is known of them to ten digits, worked out apart from this code (float64).

The teacher is right on the first row and wrong on the second.
"""

import torch
from torch import Tensor

TEACHER = [[2.0, 1.0, 0.0, -1.0], [0.5, 2.5, 0.0, -0.5]]
STUDENT = [[1.0, 0.5, 0.2, -0.3], [1.5, 1.0, -0.2, 0.1]]
LABELS = torch.tensor([0, 0])
CE_STUDENT = (0.8451776501 + 0.7108943379) / 2
KL_TO_STUDENT = (0.1274737345 + 0.5403679668) / 2
KL_TO_TEACHER = (0.1558130055 + 0.6249605895) / 2
KL_TO_STUDENT_4 = 0.3698853050
"""At temperature 4, times 16."""


def rows(values: list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)
