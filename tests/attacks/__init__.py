"""Tests of attacks, one file each."""
