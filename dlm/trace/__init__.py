"""What happened at each step of a row: recorded on request, kept as JSON lines, replayed without a model."""

from dlm.trace.file import TraceWriter, count_traces, load_traces, read_traces, save_traces
from dlm.trace.pieces import pieces_of
from dlm.trace.record import EVERYTHING, RECORDABLE, Recorder
from dlm.trace.steps import VERSION, CacheEvent, Trace, TraceStep

# fmt: off
__all__ = [
    "EVERYTHING", "RECORDABLE", "VERSION", "CacheEvent", "Recorder", "Trace", "TraceStep", "TraceWriter",
    "count_traces", "load_traces", "pieces_of", "read_traces", "save_traces",
]
