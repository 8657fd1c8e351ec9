"""What outliers are judged against: tokens with a norm many times this one count neither in training nor in contexts."""

import numpy as np


def median_norm(norms):
    """Median of the norms [tokens] above 0, a NumPy array or a tensor, in their unit; 0 where all are 0.

    Rows of zeros say nothing of how long the others are: were they counted, and more than half of all, the median would be 0
    and every other token an outlier. Where no norm is 0 it is the plain median.
    """
    above = norms[norms != 0]  # not > 0: NaN must not go unnoticed
    above = above if len(above) else norms
    return np.median(above if isinstance(above, np.ndarray) else above.cpu().numpy())
