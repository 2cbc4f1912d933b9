"""What a task is and what may happen to it: pure values and functions, without clock, network or event loop."""
