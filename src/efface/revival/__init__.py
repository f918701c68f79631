"""Bringing an erased concept back: targets, attempts, and what attacks share."""
