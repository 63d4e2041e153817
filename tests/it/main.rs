//! End to end: both programs as child processes, over the real services that `tests/run` starts.
