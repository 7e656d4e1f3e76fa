"""Unbiased distillation of a recommender: "UnKD", WSDM 2023, arXiv:2211.14729.

Items are split into K groups of like popularity, and the student learns the frozen teacher's ranking within a group
alone, where popularity cannot explain the order. With s_ui the student's score of item i for user u:

    L_R = mean over users and their drawn pairs of -log sigmoid(s_ui - s_uj), i taken and j not
    L_G = mean over users and their pairs of -log sigmoid(s_ui+ - s_ui-), i+ and i- of one group, neither taken
    L   = hard * L_R + soft * L_G

Of each user and group the teacher ranks what the user did not take, the best 1000; a pair is two ranks r, drawn without
replacement with probabilities in proportion to exp(-r / rank_scale), and i+ is the item that the teacher ranks before.
`pairs` are drawn of each user in every draw, the same number of each group as far as that goes.

With `blind`, or `groups = 1` in [data], all items are one group: distillation of the ranking that does not see
popularity, from as many pairs. Drawing both ranks anew until they are unlike, as the authors' code does, prefers the
first ranks less. Decay of the vectors is the optimizer's weight_decay. The weights are the authors' (1 and 1).
"""

import math

from tutelage.errors import UsageError
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.methods.peer_cohort import check_cohort
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.recommendation.rows import RankedPairs, prefer_first
from tutelage.tasks.task import Task


def _of_users(task: Task) -> bool:
    return task.name == "recommendation"


FOR = _of_users
"""Which tasks the method is for: recommendation alone."""


def unkd(teacher: str, student: str, *, pairs: int = 30, rank_scale: float = 20.0, hard: float = 1.0, soft: float = 1.0,
         blind: bool = False, task: Task = CLASSIFICATION) -> Graph:
    """The student learns which items its users took, and the order in which the teacher puts two items of one group.

    `pairs` are drawn of each user; a smaller `rank_scale` draws them nearer to the top. `blind` makes one group of all
    items.
    """
    check_cohort(teacher, [student])
    if not 1 <= pairs <= 10_000:
        raise UsageError("a number of pairs that cannot be", where="pairs", found=pairs, expected="1 .. 10000")
    if not 0 < rank_scale < math.inf:
        raise UsageError("a scale of ranks that cannot be", where="rank_scale", found=rank_scale,
                         expected="a number above 0")
    edges = [*task.from_labels(student, weight=hard),
             Edge(teacher, student, prefer_first, soft, rows=RankedPairs(pairs, rank_scale, blind))]
    return Graph({teacher: Frozen(), student: Trained()}, edges)
