"""Windows in, calibrated scores out: all that knows torch. Imports neither Faust nor Kafka."""

# Before torch, whose C code would import it and pass over a stop that comes meanwhile: the program then went on with
# half of numpy, and ended by "maximum recursion depth exceeded".
import numpy  # noqa: F401, ICN001
