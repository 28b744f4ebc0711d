"""Emulated edge clusters for distributed DNN inference."""
