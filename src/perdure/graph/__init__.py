"""Loads the authors' graphs, runs their steps, and turns what LangGraph streams into events."""
