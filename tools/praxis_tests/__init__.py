"""Runs Praxis's own tests on pax_haiku: the parts of tools/run_praxis_tests.py."""
