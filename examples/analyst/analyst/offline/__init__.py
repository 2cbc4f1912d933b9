"""Rules that read a question and a schema and work out an answer, in the place of a language model."""
