"""Campaigns of real faults against real runs: python -m tests.soak --help"""
