"""Conformance suites that every backend passes, the simulation and fault tools; published for third parties."""
