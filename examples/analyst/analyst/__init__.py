"""An analyst agent that answers questions about real flights with SQL, checks its own result and tries again."""
