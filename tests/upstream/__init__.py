"""A simulated upstream: one truth, told by any source, in any dialect, with any fault."""

from tests.upstream.dialect import Dialect
from tests.upstream.faults import Faults
from tests.upstream.generate import generate
from tests.upstream.models import Models
from tests.upstream.paging import Paging
from tests.upstream.server import Seen, Upstream
from tests.upstream.truth import Truth

__all__ = ["Dialect", "Faults", "Models", "Paging", "Seen", "Truth", "Upstream", "generate"]
