"""Latency reports one can trust."""
