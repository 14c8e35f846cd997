"""How host arrays get to the device."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

Upload = Callable[[np.ndarray], Tensor]  # integers become int64
