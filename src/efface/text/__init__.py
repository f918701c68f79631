"""Prompts as rows: encoding, which rows move, which are kept."""
