"""Workers: a supervisor process and its children, each with slots in which tasks run."""
