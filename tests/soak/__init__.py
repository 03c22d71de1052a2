"""Campaigns that inject real faults into real runs: python -m tests.soak --help"""
