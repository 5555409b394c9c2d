"""torchvision can be imported at the top of a test only once its operators are declared; this file is read first."""

import unlearn._torchvision  # noqa: F401
